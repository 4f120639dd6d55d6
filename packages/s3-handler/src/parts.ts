import type { CallOptions } from '@common-handlers/core'
import type { S3Config } from './config.ts'
import type { S3Driver } from './driver.ts'

/** What the subjects that S3Handler is made of need from it. */
export interface S3Parts {
  /** As it is now: a probe of the server may change it. */
  config(): S3Config
  readonly driver: S3Driver
  /** Runs a call under its signal and time-out; `close()` waits for it. The action is named when it takes too long. */
  run<T>(options: CallOptions, action: string, work: (signal: AbortSignal) => Promise<T>): Promise<T>
  /** Makes one request, again where its error allows it. */
  try<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T>
  /** The key with the handler's prefix. @throws ConfigError `S3_KEY_INVALID` */
  fullKey(key: string): string
  fullPrefix(prefix: string): string
  ownKey(fullKey: string): string
  /** The key as errors name it. */
  where(key: string): string
}
