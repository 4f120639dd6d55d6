import { type Secret, secret } from '@common-handlers/core'
import { z } from 'zod'

/** How TLS is spoken: asked for by `AUTH TLS` on the plain port, from the first byte, or not at all. */
export type FtpTls = 'explicit' | 'implicit' | 'none'

/** What a caller writes. Only `host` is required. */
export interface FtpConfigInput {
  readonly host: string
  /** Default 21, with implicit TLS 990. */
  readonly port?: number | undefined
  /** Default `anonymous`. */
  readonly username?: string | undefined
  readonly password?: string | Secret | undefined
  /** Default `explicit`. `none` sends the password and the files in clear. */
  readonly tls?: FtpTls | undefined
  /** Certificates to trust instead of those that Node knows, as PEM. */
  readonly ca?: string | undefined
  /** Connections at once, control connections with their data connections: a transfer takes one. Default 2. */
  readonly maxConnections?: number | undefined
  /** How long the server may be silent, in milliseconds. Default 30 000. */
  readonly timeoutMs?: number | undefined
  /** Tries of each step in all. Default 5. */
  readonly attempts?: number | undefined
  /** Time for all tries of a step and the waits between them, in milliseconds. Default 60 000. */
  readonly retryBudgetMs?: number | undefined
}

/** The configuration after parsing. */
export interface FtpConfig extends FtpConfigInput {
  readonly username: string
  readonly password?: Secret | undefined
  readonly tls: FtpTls
  readonly maxConnections: number
  readonly timeoutMs: number
  readonly attempts: number
  readonly retryBudgetMs: number
}

/** One strict schema for all options. */
export const ftpConfigSchema: z.ZodType<FtpConfig, FtpConfigInput> = z.strictObject({
  host: z.string().min(1).describe('name or address of the server'),
  port: z.int().min(1).max(65_535).optional().describe('its port; 21, with implicit TLS 990 by default'),
  username: z.string().min(1).default('anonymous').describe('who logs in'),
  password: secret().optional().describe('of the login; none by default'),
  tls: z
    .enum(['explicit', 'implicit', 'none'])
    .default('explicit')
    .describe('TLS by `AUTH TLS`, from the first byte, or not at all: then password and files go in clear'),
  ca: z.string().min(1).optional().describe('PEM of the certificates to trust; those of Node by default'),
  maxConnections: z.int().positive().default(2).describe('connections at once; a transfer takes one'),
  timeoutMs: z.int().positive().default(30_000).describe('how long the server may be silent, in milliseconds'),
  attempts: z.int().positive().default(5).describe('tries of each step: a listing, the next bytes'),
  retryBudgetMs: z
    .int()
    .positive()
    .default(60_000)
    .describe('time for all tries of a step and the waits between, in milliseconds'),
})
