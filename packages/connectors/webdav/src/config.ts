import { httpConfigSchema } from '@common-handlers/connections'
import { type Secret, secret } from '@common-handlers/core'
import { z } from 'zod'

/** What a caller writes. Only `baseUrl` is required; `username` and `password`, or `token`. */
export interface WebdavConfigInput {
  /** The folder that paths stand below: `https://files.example.com/remote.php/dav/files/etl`. */
  readonly baseUrl: string
  /** Basic authentication, with `password`. */
  readonly username?: string | undefined
  readonly password?: string | Secret | undefined
  /** A bearer token. */
  readonly token?: string | Secret | undefined
  /** Certificates to trust instead of those that Node knows, as PEM. */
  readonly ca?: string | undefined
  /** The HTTP or HTTPS proxy of all requests; `environment` for that of HTTP_PROXY, HTTPS_PROXY and NO_PROXY. */
  readonly proxyUrl?: string | undefined
  readonly proxyUsername?: string | undefined
  readonly proxyPassword?: string | Secret | undefined
  /** How long the server may be silent, and how long a list may take, in milliseconds. Default 30 000. */
  readonly timeoutMs?: number | undefined
  /** Tries of each step in all. Default 5. */
  readonly attempts?: number | undefined
  /** Time for all tries of a step and the waits between them, in milliseconds. Default 60 000. */
  readonly retryBudgetMs?: number | undefined
  /** The largest list of one folder that is read. Default 64 MiB, some 100 000 files. */
  readonly maxListBytes?: number | undefined
}

/** The configuration after parsing. */
export interface WebdavConfig extends WebdavConfigInput {
  readonly password?: Secret | undefined
  readonly token?: Secret | undefined
  readonly proxyPassword?: Secret | undefined
  readonly timeoutMs: number
  readonly attempts: number
  readonly retryBudgetMs: number
  readonly maxListBytes: number
}

const MIB = 1024 * 1024

/** One strict schema for all options. What `http` has, too, is held against its schema. */
export const webdavConfigSchema: z.ZodType<WebdavConfig, WebdavConfigInput> = z
  .strictObject({
    baseUrl: z.string().min(1).describe('folder that paths stand below, such as `https://files.example.com/dav/etl`'),
    username: z.string().min(1).optional().describe('basic authentication, with `password`; none by default'),
    password: secret().optional().describe('of basic authentication; none by default'),
    token: secret().optional().describe('bearer token; none by default'),
    ca: z.string().min(1).optional().describe('PEM of the certificates to trust; those of Node by default'),
    proxyUrl: z
      .string()
      .min(1)
      .optional()
      .describe('proxy of all requests; `environment` takes that of HTTP_PROXY, HTTPS_PROXY and NO_PROXY; none by default'),
    proxyUsername: z.string().min(1).optional().describe('of basic authentication at `proxyUrl`; none by default'),
    proxyPassword: secret().optional().describe('of basic authentication at `proxyUrl`; none by default'),
    timeoutMs: z
      .int()
      .positive()
      .default(30_000)
      .describe('how long the server may be silent, and how long a list may take, in milliseconds'),
    attempts: z.int().positive().default(5).describe('tries of each step: a listing, the next bytes'),
    retryBudgetMs: z
      .int()
      .positive()
      .default(60_000)
      .describe('time for all tries of a step and the waits between, in milliseconds'),
    maxListBytes: z
      .int()
      .positive()
      .default(64 * MIB)
      .describe('largest list of one folder that is read'),
  })
  .superRefine(({ maxListBytes: _maxListBytes, ...shared }, context) => {
    for (const { path, message } of httpConfigSchema.safeParse(shared).error?.issues ?? []) {
      context.addIssue({ code: 'custom', path: [...path], message })
    }
  })
