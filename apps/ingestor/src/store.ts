import { type CallOptions, type CheckResult, ConfigError, type Logger } from '@common-handlers/core'
import { S3Handler } from '@common-handlers/s3-handler'
import { LocalFolderStore, type ObjectStore, parseStoreUrl } from '@common-handlers/storage'
import type { IngestorConfig } from './config.ts'

/** The store of the runs and of the ledger. */
export interface RunStore {
  readonly objects: ObjectStore
  /** Also writes a small object, twice and only if absent, and deletes it. */
  check(options?: CallOptions): Promise<CheckResult>
}

/** Opens the store that the configuration names. Nothing is connected before the first call. */
export function openStore(config: Pick<IngestorConfig, 'store' | 's3'>, logger: Logger): RunStore {
  const location = parseStoreUrl(config.store)
  if (location === undefined) {
    throw new ConfigError(`store: expected s3://bucket/prefix or file:///folder, not ${config.store}`, { code: 'CONFIG_INVALID' })
  }
  if (location.kind === 'folder') {
    const objects = new LocalFolderStore({ folder: location.url })
    return { objects, check: (options) => objects.check(options) }
  }
  const { bucket, prefix } = location
  const objects = new S3Handler({ ...config.s3, bucket, prefix, logger })
  return { objects, check: (options) => objects.check({ ...options, write: true }) }
}
