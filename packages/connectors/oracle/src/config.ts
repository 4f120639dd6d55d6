import { readFile } from 'node:fs/promises'
import { type Secret, secret } from '@common-handlers/core'
import { z } from 'zod'
import { walletUnreadable } from './errors.ts'

/** `verify-full` is TCPS: the certificate is checked, and that it was made for the host. */
export type SslMode = 'disable' | 'verify-full'

/** What a caller writes. `host`, `serviceName`, `username` and `password` are required. */
export interface OracleConfigInput {
  /** Name or address of the server. */
  readonly host: string
  /** Default 1521. */
  readonly port?: number | undefined
  /** The service of the database, as `lsnrctl services` shows it. */
  readonly serviceName: string
  readonly username: string
  readonly password: string | Secret
  /** Default `disable`. */
  readonly sslMode?: SslMode | undefined
  /**
   * A wallet as PEM text, or the path of its `ewallet.pem`: the certificate and the key of the client, and the
   * certificates to trust. Default: no certificate of one's own, and Node's to trust.
   */
  readonly wallet?: string | Secret | undefined
  /** What the key in the wallet is encrypted with. */
  readonly walletPassword?: string | Secret | undefined
  /** Rows that are asked for at a time. Default 100. */
  readonly fetchRows?: number | undefined
  /** Connections at most. Default 10. */
  readonly maxConnections?: number | undefined
  /** Time to make a connection, or to wait for one that other calls have, in milliseconds. Default 10 000. */
  readonly connectTimeoutMs?: number | undefined
  /** An idle connection is closed after so many milliseconds. Default 10 000. */
  readonly idleTimeoutMs?: number | undefined
}

/** The configuration after parsing. */
export interface OracleConfig extends OracleConfigInput {
  readonly port: number
  readonly password: Secret
  readonly sslMode: SslMode
  readonly wallet?: Secret | undefined
  readonly walletPassword?: Secret | undefined
  readonly fetchRows: number
  readonly maxConnections: number
  readonly connectTimeoutMs: number
  readonly idleTimeoutMs: number
}

const text = () => z.string().min(1)
// They become part of a connect descriptor, whose own signs they may not bring.
const word = () => text().regex(/^[^\s()=/?#'"\\]+$/, 'holds a sign that a connect descriptor has for itself')
const milliseconds = () =>
  z
    .int()
    .positive()
    .max(2 ** 31 - 1)
    .default(10_000)

/** One strict schema for all options. */
export const oracleConfigSchema: z.ZodType<OracleConfig, OracleConfigInput> = z
  .strictObject({
    host: word().describe('name or address of the server'),
    port: z.int().min(1).max(65_535).default(1521).describe('its port'),
    serviceName: word().describe('service of the database'),
    username: text().describe('user'),
    password: secret().describe('its password'),
    sslMode: z.enum(['disable', 'verify-full']).default('disable').describe('TLS (TCPS): `disable`, `verify-full`'),
    wallet: secret()
      .optional()
      .describe('client certificate, its key and certificates to trust: PEM text or the path of an ewallet.pem; none by default'),
    walletPassword: secret().optional().describe('what the key in the wallet is encrypted with; none by default'),
    fetchRows: z.int().positive().max(10_000).default(100).describe('rows that are asked for at a time'),
    maxConnections: z.int().positive().default(10).describe('connections at most'),
    connectTimeoutMs: milliseconds().describe(
      'time to make a connection, or to wait for one that other calls have, in milliseconds',
    ),
    idleTimeoutMs: milliseconds().describe('an idle connection is closed after so many milliseconds'),
  })
  .refine(({ sslMode, wallet }) => wallet === undefined || sslMode === 'verify-full', {
    error: 'is looked at with sslMode verify-full only',
    path: ['wallet'],
  })

/** The wallet as PEM. */
export async function readWallet({ wallet }: OracleConfig): Promise<string | undefined> {
  const given = wallet?.expose()
  if (given === undefined || given.includes('-----BEGIN')) return given
  try {
    return await readFile(given, 'utf8')
  } catch (cause) {
    throw walletUnreadable(cause)
  }
}
