import { type Secret, secret } from '@common-handlers/core'
import { z } from 'zod'

/** What a caller writes. Only `host` is required. */
export interface AmqpConfigInput {
  readonly host: string
  /** Default 5672, with TLS 5671. */
  readonly port?: number | undefined
  /** The virtual host. Default `/`. */
  readonly vhost?: string | undefined
  /** Default `guest`, which RabbitMQ lets in from its own machine only. */
  readonly username?: string | undefined
  readonly password?: string | Secret | undefined
  /** Default false. `ca` implies it. */
  readonly tls?: boolean | undefined
  /** Certificates to trust instead of those that Node knows, as PEM. */
  readonly ca?: string | undefined
  /** A server that says nothing for twice as long is gone. Default 10. */
  readonly heartbeatSeconds?: number | undefined
  /** Limit of connecting in milliseconds. Default 10 000. */
  readonly connectTimeoutMs?: number | undefined
  /** Tries of connecting in all. Default 5. */
  readonly attempts?: number | undefined
  /** Time for all tries of connecting and the waits between them, in milliseconds. Default 60 000. */
  readonly retryBudgetMs?: number | undefined
}

/** The configuration after parsing. */
export interface AmqpConfig {
  readonly host: string
  readonly port: number
  readonly vhost: string
  readonly username: string
  readonly password: Secret
  readonly tls: boolean
  readonly ca?: string | undefined
  readonly heartbeatSeconds: number
  readonly connectTimeoutMs: number
  readonly attempts: number
  readonly retryBudgetMs: number
}

/** One strict schema for all options. */
export const amqpConfigSchema: z.ZodType<AmqpConfig, AmqpConfigInput> = z
  .strictObject({
    host: z.string().min(1).describe('name or address of the server'),
    port: z.int().min(1).max(65_535).optional().describe('of the server; 5672, with TLS 5671 by default'),
    vhost: z.string().min(1).default('/').describe('the virtual host'),
    username: z.string().default('guest').describe('who logs in'),
    password: secret().prefault('guest').describe('of the login'),
    tls: z.boolean().default(false).describe('speak TLS'),
    ca: z.string().optional().describe('PEM of the certificates to trust, which implies `tls`; those of Node by default'),
    heartbeatSeconds: z.int().min(1).max(3600).default(10).describe('a server that says nothing for twice as long is gone'),
    connectTimeoutMs: z.int().positive().default(10_000).describe('limit of connecting in milliseconds'),
    attempts: z.int().positive().default(5).describe('tries of connecting in all'),
    retryBudgetMs: z.int().positive().default(60_000).describe('time for all tries and the waits between them, in milliseconds'),
  })
  .transform(({ port, tls, ca, ...rest }) => {
    const isSecure = tls || ca !== undefined
    return { ...rest, port: port ?? (isSecure ? 5671 : 5672), tls: isSecure, ...(ca === undefined ? {} : { ca }) }
  })
