import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ConfigError } from '@common-handlers/core'
import { z } from 'zod'

export interface LocalFolderStoreOptions {
  /** A path, or a `file:///folder` URL. It is made with the first write. */
  readonly folder: string
  /**
   * True (the default) to flush each object and its folder to the disk before a write is reported: what was written is
   * still there after a power cut. False is faster and safe against the death of the process alone.
   */
  readonly fsync?: boolean | undefined
}

const optionsSchema: z.ZodType<LocalFolderStoreOptions> = z.strictObject({
  folder: z.string().min(1).describe('a path, or a file:/// URL'),
  fsync: z.boolean().optional().describe('flush each object to the disk before its write is reported; default true'),
})

export interface LocalFolderSettings {
  /** Absolute. */
  readonly folder: string
  readonly fsync: boolean
}

/** @throws ConfigError `STORAGE_CONFIG_INVALID` */
export function parseOptions(options: LocalFolderStoreOptions): LocalFolderSettings {
  const parsed = optionsSchema.safeParse(options)
  if (!parsed.success) {
    const problem = parsed.error.issues.map((issue) => `${issue.path.join('.') || 'options'}: ${issue.message}`).join('; ')
    throw new ConfigError(`LocalFolderStore: ${problem}`, { code: 'STORAGE_CONFIG_INVALID' })
  }
  const { folder, fsync = true } = parsed.data
  if (!/^[a-z][a-z0-9+.-]*:\/\//i.test(folder)) return { folder: resolve(folder), fsync }
  try {
    return { folder: resolve(fileURLToPath(folder)), fsync }
  } catch (cause) {
    throw new ConfigError(`LocalFolderStore: folder: ${folder} is no file:/// URL of this machine`, {
      code: 'STORAGE_CONFIG_INVALID',
      cause,
    })
  }
}
