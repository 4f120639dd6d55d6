import { readFile } from 'node:fs/promises'
import type { ConnectionOptions } from 'node:tls'
import { type Secret, secret } from '@common-handlers/core'
import { z } from 'zod'
import { certificateUnreadable } from './errors.ts'

/**
 * TLS as libpq names it. `require` encrypts without looking at the certificate, `verify-ca` checks who signed it,
 * `verify-full` also that it was made for the host. libpq's `prefer` and `allow` are left out: they fall back to plain
 * text without a word.
 */
export type SslMode = 'disable' | 'require' | 'verify-ca' | 'verify-full'

/** What a caller writes. `database` and `username` are required. */
export interface PostgresConfigInput {
  /** Name or address of the server. Default `localhost`. */
  readonly host?: string | undefined
  /** Default 5432. */
  readonly port?: number | undefined
  readonly database: string
  /** The role to log in as. */
  readonly username: string
  readonly password?: string | Secret | undefined
  /** Default `disable`. */
  readonly sslMode?: SslMode | undefined
  /** The certificates to trust: PEM text, or the path of a PEM file. Default: those of Node. */
  readonly sslRootCert?: string | undefined
  /** Certificate of the client, PEM text or the path of a PEM file, with `sslKey`. */
  readonly sslCert?: string | undefined
  readonly sslKey?: string | Secret | undefined
  /** Shown in pg_stat_activity. Default `common-handlers`. */
  readonly applicationName?: string | undefined
  /** Connections at most. Default 10. */
  readonly maxConnections?: number | undefined
  /** Time to make a connection, or to wait for one that other calls have, in milliseconds. Default 10 000. */
  readonly connectTimeoutMs?: number | undefined
  /** An idle connection is closed after so many milliseconds. Default 10 000. */
  readonly idleTimeoutMs?: number | undefined
  /** The server ends a statement after so many milliseconds, COPY included. 0, the default, is no limit. */
  readonly statementTimeoutMs?: number | undefined
}

/** The configuration after parsing. */
export interface PostgresConfig extends PostgresConfigInput {
  readonly host: string
  readonly port: number
  readonly password?: Secret | undefined
  readonly sslMode: SslMode
  readonly sslKey?: Secret | undefined
  readonly applicationName: string
  readonly maxConnections: number
  readonly connectTimeoutMs: number
  readonly idleTimeoutMs: number
  readonly statementTimeoutMs: number
}

const text = () => z.string().min(1)
const MAX_TIMER_MS = 2 ** 31 - 1

/** One strict schema for all options. */
export const postgresConfigSchema: z.ZodType<PostgresConfig, PostgresConfigInput> = z
  .strictObject({
    host: text().default('localhost').describe('name or address of the server'),
    port: z.int().min(1).max(65_535).default(5432).describe('its port'),
    database: text().describe('database'),
    username: text().describe('role to log in as'),
    password: secret().optional().describe('its password; none by default'),
    sslMode: z
      .enum(['disable', 'require', 'verify-ca', 'verify-full'])
      .default('disable')
      .describe('TLS as libpq names it: `disable`, `require`, `verify-ca`, `verify-full`'),
    sslRootCert: text()
      .optional()
      .describe('certificates to trust, PEM text or the path of a PEM file; those of Node by default'),
    sslCert: text().optional().describe('certificate of the client, PEM text or the path of a PEM file; none by default'),
    sslKey: secret().optional().describe('private key of `sslCert`, PEM text or the path of a PEM file; none by default'),
    applicationName: text().max(63).default('common-handlers').describe('shown in pg_stat_activity'),
    maxConnections: z.int().positive().default(10).describe('connections at most'),
    connectTimeoutMs: z
      .int()
      .positive()
      .max(MAX_TIMER_MS)
      .default(10_000)
      .describe('time to make a connection, or to wait for one that other calls have, in milliseconds'),
    idleTimeoutMs: z
      .int()
      .positive()
      .max(MAX_TIMER_MS)
      .default(10_000)
      .describe('an idle connection is closed after so many milliseconds'),
    statementTimeoutMs: z
      .int()
      .nonnegative()
      .max(MAX_TIMER_MS)
      .default(0)
      .describe('the server ends a statement after so many milliseconds, 0: never'),
  })
  .superRefine(({ sslMode, sslRootCert, sslCert, sslKey }, context) => {
    const problem = (path: string, message: string): void => context.addIssue({ code: 'custom', path: [path], message })
    if (sslRootCert !== undefined && !sslMode.startsWith('verify')) {
      problem('sslRootCert', `is not looked at with sslMode "${sslMode}": use verify-ca or verify-full`)
    }
    if ((sslCert === undefined) !== (sslKey === undefined)) problem('sslCert', 'certificate and sslKey go together')
    if (sslCert !== undefined && sslMode === 'disable') problem('sslCert', 'is not used with sslMode "disable"')
  })

/** What Node's TLS is given; false for none. */
export async function tlsOptions(config: PostgresConfig): Promise<ConnectionOptions | false> {
  const { sslMode, sslRootCert, sslCert, sslKey } = config
  if (sslMode === 'disable') return false
  const own =
    sslCert === undefined || sslKey === undefined
      ? {}
      : { cert: await pem('sslCert', sslCert), key: await pem('sslKey', sslKey.expose()) }
  if (sslMode === 'require') return { rejectUnauthorized: false, ...own }
  return {
    rejectUnauthorized: true,
    ...own,
    ...(sslRootCert === undefined ? {} : { ca: await pem('sslRootCert', sslRootCert) }),
    ...(sslMode === 'verify-ca' ? { checkServerIdentity: () => undefined } : {}),
  }
}

async function pem(option: string, given: string): Promise<string> {
  if (given.includes('-----BEGIN')) return given
  try {
    return await readFile(given, 'utf8')
  } catch (cause) {
    throw certificateUnreadable(option, cause)
  }
}
