import { type Secret, secret } from '@common-handlers/core'
import { z } from 'zod'

/** What a caller writes. Only `servers` is required; at most one way to log in. */
export interface NatsConfigInput {
  /** `host:port` of one or more servers of a cluster; the port is 4222 where there is none. */
  readonly servers: readonly string[]
  readonly username?: string | undefined
  /** With `username`. */
  readonly password?: string | Secret | undefined
  readonly token?: string | Secret | undefined
  /** The text of a `.creds` file: a JWT and the seed of its user. */
  readonly credentials?: string | Secret | undefined
  /** True to refuse a server without TLS. Default: what the server asks for. `ca` implies it. */
  readonly tls?: boolean | undefined
  /** Certificates to trust instead of those that Node knows, as PEM. */
  readonly ca?: string | undefined
  /** The domain of JetStream, where it has one. */
  readonly domain?: string | undefined
  /** Limit of connecting, and of each request, in milliseconds. Default 10 000. */
  readonly requestTimeoutMs?: number | undefined
  /** Tries of connecting in all. Default 5. */
  readonly attempts?: number | undefined
  /** Time for all tries of connecting and the waits between them, in milliseconds. Default 60 000. */
  readonly retryBudgetMs?: number | undefined
}

/** The configuration after parsing. */
export interface NatsConfig {
  readonly servers: readonly string[]
  readonly username?: string | undefined
  readonly password?: Secret | undefined
  readonly token?: Secret | undefined
  readonly credentials?: Secret | undefined
  readonly tls?: boolean | undefined
  readonly ca?: string | undefined
  readonly domain?: string | undefined
  readonly requestTimeoutMs: number
  readonly attempts: number
  readonly retryBudgetMs: number
}

/** One strict schema for all options. */
export const natsConfigSchema: z.ZodType<NatsConfig, NatsConfigInput> = z
  .strictObject({
    servers: z
      .array(z.string().regex(/^[^/@\s]+$/, 'expected host:port'))
      .min(1)
      .describe('`host:port` of one or more servers of a cluster'),
    username: z.string().optional().describe('login, with `password`; none by default'),
    password: secret().optional().describe('of the login; none by default'),
    token: secret().optional().describe('a token in their place; none by default'),
    credentials: secret().optional().describe('the text of a `.creds` file in their place; none by default'),
    tls: z.boolean().optional().describe('refuse a server without TLS; what the server asks for by default'),
    ca: z.string().optional().describe('PEM of the certificates to trust; those of Node by default'),
    domain: z.string().optional().describe('the domain of JetStream; none by default'),
    requestTimeoutMs: z.int().positive().default(10_000).describe('limit of connecting, and of each request, in milliseconds'),
    attempts: z.int().positive().default(5).describe('tries of connecting in all'),
    retryBudgetMs: z.int().positive().default(60_000).describe('time for all tries and the waits between them, in milliseconds'),
  })
  .refine(({ username, password }) => (username === undefined) === (password === undefined), {
    error: 'username and password go together',
    path: ['password'],
  })
  .refine(({ username, token, credentials }) => [username, token, credentials].filter((one) => one !== undefined).length < 2, {
    error: 'give one way to log in: username, token or credentials',
    path: ['token'],
  })
