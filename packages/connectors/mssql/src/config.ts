import { readFile } from 'node:fs/promises'
import { type Secret, secret } from '@common-handlers/core'
import { z } from 'zod'
import { certificateUnreadable } from './errors.ts'

/**
 * `disable` sends everything in clear, the password but for a fixed scrambling. `require` encrypts without looking at the
 * certificate, `verify-full` checks who signed it and that it was made for the host; `strict` is that from the first byte
 * on (TDS 8.0, SQL Server 2022).
 */
export type SslMode = 'disable' | 'require' | 'verify-full' | 'strict'

/** What a caller writes. `host`, `database`, `username` and `password` are required. */
export interface MssqlConfigInput {
  /** Name or address of the server. */
  readonly host: string
  /** Default 1433. A named instance has a port of its own, which SQL Server Configuration Manager shows. */
  readonly port?: number | undefined
  readonly database: string
  /** A login of SQL Server. */
  readonly username: string
  readonly password: string | Secret
  /** Default `verify-full`, as in Microsoft's own drivers. */
  readonly sslMode?: SslMode | undefined
  /** The certificates to trust: PEM text, or the path of a PEM file. Default: those of Node. */
  readonly sslRootCert?: string | undefined
  /** Shown in sys.dm_exec_sessions. Default `common-handlers`. */
  readonly applicationName?: string | undefined
  /** True to be sent to a readable replica of an availability group. Default false. */
  readonly readOnlyIntent?: boolean | undefined
  /** Connections at most. Default 10. */
  readonly maxConnections?: number | undefined
  /** Time to make a connection, or to wait for one that other calls have, in milliseconds. Default 10 000. */
  readonly connectTimeoutMs?: number | undefined
  /** An idle connection is closed after so many milliseconds. Default 10 000. */
  readonly idleTimeoutMs?: number | undefined
}

/** The configuration after parsing. */
export interface MssqlConfig extends MssqlConfigInput {
  readonly port: number
  readonly password: Secret
  readonly sslMode: SslMode
  readonly applicationName: string
  readonly readOnlyIntent: boolean
  readonly maxConnections: number
  readonly connectTimeoutMs: number
  readonly idleTimeoutMs: number
}

const text = () => z.string().min(1)
const milliseconds = () =>
  z
    .int()
    .positive()
    .max(2 ** 31 - 1)
    .default(10_000)

/** One strict schema for all options. */
export const mssqlConfigSchema: z.ZodType<MssqlConfig, MssqlConfigInput> = z
  .strictObject({
    host: text().describe('name or address of the server'),
    port: z.int().min(1).max(65_535).default(1433).describe('its port; a named instance has one of its own'),
    database: text().describe('database'),
    username: text().describe('login of SQL Server'),
    password: secret().describe('its password'),
    sslMode: z
      .enum(['disable', 'require', 'verify-full', 'strict'])
      .default('verify-full')
      .describe('TLS: `disable`, `require` (certificate not looked at), `verify-full`, `strict` (TDS 8.0)'),
    sslRootCert: text()
      .optional()
      .describe('certificates to trust, PEM text or the path of a PEM file; those of Node by default'),
    applicationName: text().max(128).default('common-handlers').describe('shown in sys.dm_exec_sessions'),
    readOnlyIntent: z.boolean().default(false).describe('be sent to a readable replica of an availability group'),
    maxConnections: z.int().positive().default(10).describe('connections at most'),
    connectTimeoutMs: milliseconds().describe(
      'time to make a connection, or to wait for one that other calls have, in milliseconds',
    ),
    idleTimeoutMs: milliseconds().describe('an idle connection is closed after so many milliseconds'),
  })
  .refine(({ sslMode, sslRootCert }) => sslRootCert === undefined || sslMode === 'verify-full' || sslMode === 'strict', {
    error: 'is looked at with sslMode verify-full and strict only',
    path: ['sslRootCert'],
  })

/** The certificates to trust, as PEM. */
export async function rootCertificates({ sslRootCert }: MssqlConfig): Promise<string | undefined> {
  if (sslRootCert === undefined || sslRootCert.includes('-----BEGIN')) return sslRootCert
  try {
    return await readFile(sslRootCert, 'utf8')
  } catch (cause) {
    throw certificateUnreadable(cause)
  }
}
