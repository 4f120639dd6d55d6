import { type Secret, secret } from '@common-handlers/core'
import { z } from 'zod'

/** How a client says who it is. `plain` sends the password itself: use it over TLS. */
export type KafkaMechanism = 'plain' | 'scram-sha-256' | 'scram-sha-512'

/** What a caller writes. Only `brokers` is required. */
export interface KafkaConfigInput {
  /** `host:port` of one or more brokers; the others are learned from them. */
  readonly brokers: readonly string[]
  readonly username?: string | undefined
  /** With `username`. */
  readonly password?: string | Secret | undefined
  /** Default `scram-sha-512`. */
  readonly mechanism?: KafkaMechanism | undefined
  /** Default false. `ca` implies it. */
  readonly tls?: boolean | undefined
  /** Certificates to trust instead of those that Node knows, as PEM. */
  readonly ca?: string | undefined
  /** What the brokers know this client by. Default `common-handlers`. */
  readonly clientId?: string | undefined
  /** Limit of connecting, and of each request, in milliseconds. Default 10 000. */
  readonly requestTimeoutMs?: number | undefined
  /** A consumer that says nothing for so long loses its partitions to the others of its group, in milliseconds. Default 30 000. */
  readonly sessionTimeoutMs?: number | undefined
  /** Tries of connecting in all. Default 5. */
  readonly attempts?: number | undefined
  /** Time for all tries of connecting and the waits between them, in milliseconds. Default 60 000. */
  readonly retryBudgetMs?: number | undefined
}

/** The configuration after parsing. */
export interface KafkaConfig {
  readonly brokers: readonly string[]
  readonly username?: string | undefined
  readonly password?: Secret | undefined
  readonly mechanism: KafkaMechanism
  readonly tls: boolean
  readonly ca?: string | undefined
  readonly clientId: string
  readonly requestTimeoutMs: number
  readonly sessionTimeoutMs: number
  readonly attempts: number
  readonly retryBudgetMs: number
}

/** One strict schema for all options. */
export const kafkaConfigSchema: z.ZodType<KafkaConfig, KafkaConfigInput> = z
  .strictObject({
    brokers: z
      .array(z.string().regex(/^[^/@\s]+:\d+$/, 'expected host:port'))
      .min(1)
      .describe('`host:port` of one or more brokers'),
    username: z.string().optional().describe('login, with `password`; none by default'),
    password: secret().optional().describe('of the login; none by default'),
    mechanism: z.enum(['plain', 'scram-sha-256', 'scram-sha-512']).default('scram-sha-512').describe('how the login is shown'),
    tls: z.boolean().default(false).describe('speak TLS'),
    ca: z.string().optional().describe('PEM of the certificates to trust, which implies `tls`; those of Node by default'),
    clientId: z.string().min(1).default('common-handlers').describe('what the brokers know this client by'),
    requestTimeoutMs: z.int().positive().default(10_000).describe('limit of connecting, and of each request, in milliseconds'),
    sessionTimeoutMs: z
      .int()
      .min(6_000)
      .default(30_000)
      .describe('a consumer that says nothing for so long loses its partitions to others of its group, in milliseconds'),
    attempts: z.int().positive().default(5).describe('tries of connecting in all'),
    retryBudgetMs: z.int().positive().default(60_000).describe('time for all tries and the waits between them, in milliseconds'),
  })
  .refine(({ username, password }) => (username === undefined) === (password === undefined), {
    error: 'username and password go together',
    path: ['password'],
  })
  .transform(({ tls, ca, ...rest }) => ({ ...rest, tls: tls || ca !== undefined, ...(ca === undefined ? {} : { ca }) }))
