import { readFile } from 'node:fs/promises'
import { checkServerIdentity, type ConnectionOptions, type PeerCertificate } from 'node:tls'
import { ConfigError, Secret, secret } from '@common-handlers/core'
import { z } from 'zod'

/**
 * TLS as libpq names it. `require` encrypts without looking at the certificate, `verify-ca` checks who signed it,
 * `verify-full` also that it was made for the host. libpq's `prefer` and `allow` are left out: they fall back to plain
 * text without a word.
 */
export type SslMode = 'disable' | 'require' | 'verify-ca' | 'verify-full'

/** What a server session lasts for: as long as its connection, or, behind a pooler, for one transaction. */
export type PoolerMode = 'session' | 'transaction'

/** Options as a user writes them: `url`, or `host` and its companions. */
export interface PostgresConfigInput {
  /**
   * `postgres://user:password@host:port/database?sslmode=verify-full&sslrootcert=…`. Further parameters it may hold:
   * `sslcert`, `sslkey`, `application_name`, `connect_timeout` (seconds). Instead of host, port, database, user and password.
   */
  url?: string | Secret | undefined
  /** Name, address or, with a leading slash, folder of a Unix socket. Default `localhost`. */
  host?: string | undefined
  /** Default 5432. */
  port?: number | undefined
  /** Default: the name of the user. */
  database?: string | undefined
  user?: string | undefined
  password?: string | Secret | undefined
  /** Default `disable`. */
  sslMode?: SslMode | undefined
  /** The certificates to trust: PEM text, or the path of a PEM file. Default: those of Node. */
  sslRootCert?: string | undefined
  /** Certificate of the client: PEM text, or the path of a PEM file. With `sslKey`. */
  sslCert?: string | undefined
  /** Its private key: PEM text, or the path of a PEM file. */
  sslKey?: string | Secret | undefined
  /** The name that `verify-full` looks for in the server's certificate. Default: `host`. */
  sslServerName?: string | undefined
  /** Shown in pg_stat_activity. Default `common-handlers`. */
  applicationName?: string | undefined
  /**
   * `transaction` behind a pooler that lends a server for one transaction, such as PgBouncer with that pool_mode: settings
   * go into each transaction then. Default `session`.
   */
  poolerMode?: PoolerMode | undefined
  /** Time to make a connection, credentials and login included, in milliseconds. Default 10 000. */
  connectTimeoutMs?: number | undefined
  /** The server ends a statement after so many milliseconds, COPY included. 0, the default, is no limit. */
  statementTimeoutMs?: number | undefined
  /** The server ends a statement that has waited so many milliseconds for a lock. 0, the default, is no limit. */
  lockTimeoutMs?: number | undefined
  /** The server ends a transaction in which nothing ran for so many milliseconds. 0, the default, is no limit. */
  idleInTransactionTimeoutMs?: number | undefined
  /** Connecting, and calls with `idempotent`, are tried again where it may help. */
  retry?:
    | {
        /** Tries in all. Default 5. */
        attempts?: number | undefined
        /** For all tries and the waits between them, in milliseconds. Default 10 000. */
        budgetMs?: number | undefined
      }
    | undefined
  pool?:
    | {
        /** Connections that are kept though they are idle, once they were needed. Default 0. */
        min?: number | undefined
        /** Connections at most, whoever they are logged in as. Default 10. */
        max?: number | undefined
        /** An idle connection above `min` is closed after so many milliseconds. 0 is never. Default 10 000. */
        idleTimeoutMs?: number | undefined
        /** A connection is closed when it is this old and idle, up to a tenth sooner. 0 is never. Default 1 800 000. */
        maxLifetimeMs?: number | undefined
        /** How long a call waits for a connection that others have, in milliseconds. 0 is no limit. Default 10 000. */
        waitTimeoutMs?: number | undefined
        /** Calls that may wait while all connections are in use. Default: no limit. */
        maxWaiting?: number | undefined
        /** When the user changes, connections still busy as the former one are cut after so long. 0, the default, is never. */
        drainTimeoutMs?: number | undefined
      }
    | undefined
}

/** Options with defaults filled in and the URL taken apart. */
export interface PostgresConfig {
  readonly host: string
  readonly port: number
  readonly database: string
  readonly user: string
  readonly password?: Secret | undefined
  readonly sslMode: SslMode
  readonly sslRootCert?: string | undefined
  readonly sslCert?: string | undefined
  readonly sslKey?: Secret | undefined
  readonly sslServerName?: string | undefined
  readonly applicationName: string
  readonly poolerMode: PoolerMode
  readonly connectTimeoutMs: number
  readonly statementTimeoutMs: number
  readonly lockTimeoutMs: number
  readonly idleInTransactionTimeoutMs: number
  readonly retry: { readonly attempts: number; readonly budgetMs: number }
  readonly pool: {
    readonly min: number
    readonly max: number
    readonly idleTimeoutMs: number
    readonly maxLifetimeMs: number
    readonly waitTimeoutMs: number
    readonly maxWaiting?: number | undefined
    readonly drainTimeoutMs: number
  }
}

const sslModes = ['disable', 'require', 'verify-ca', 'verify-full'] as const
const milliseconds = z
  .int()
  .min(0)
  .max(2 ** 31 - 1)

const poolSchema = z.strictObject({
  min: z.int().min(0).default(0).describe('Connections that are kept though they are idle, once they were needed'),
  max: z.int().min(1).default(10).describe('Connections at most, whoever they are logged in as'),
  idleTimeoutMs: milliseconds
    .default(10_000)
    .describe('An idle connection above min is closed after so many milliseconds; 0: never'),
  maxLifetimeMs: milliseconds
    .default(1_800_000)
    .describe('An idle connection this old is closed, up to a tenth sooner, in milliseconds; 0: never'),
  waitTimeoutMs: milliseconds
    .default(10_000)
    .describe('How long a call waits for a connection that others have, in milliseconds; 0: no limit'),
  maxWaiting: z.int().min(0).optional().describe('Calls that may wait while all connections are in use; no limit by default'),
  drainTimeoutMs: milliseconds
    .default(0)
    .describe('When the user changes, connections still busy as the former one are cut after so many milliseconds; 0: never'),
})

const retrySchema = z.strictObject({
  attempts: z.int().min(1).default(5).describe('Tries to connect, and of a call with idempotent, in all'),
  budgetMs: milliseconds.default(10_000).describe('For all tries and the waits between them, in milliseconds'),
})

const optionsSchema = z.strictObject({
  url: secret()
    .optional()
    .describe('postgres://user:password@host:port/database?sslmode=…, instead of host, port, database, user and password'),
  host: z.string().min(1).optional().describe('Name, address or folder of a Unix socket; localhost by default'),
  port: z.int().min(1).max(65_535).optional().describe('Port; 5432 by default'),
  database: z.string().min(1).optional().describe('Database; the name of the user by default'),
  user: z.string().min(1).optional().describe('User (role) to log in as'),
  password: secret().optional().describe('Password of the user'),
  sslMode: z.enum(sslModes).optional().describe('TLS as libpq names it; disable by default'),
  sslRootCert: z.string().min(1).optional().describe('Certificates to trust: PEM text or the path of a PEM file'),
  sslCert: z.string().min(1).optional().describe('Certificate of the client: PEM text or the path of a PEM file'),
  sslKey: secret().optional().describe('Private key of sslCert: PEM text or the path of a PEM file'),
  sslServerName: z
    .string()
    .min(1)
    .optional()
    .describe('Name that verify-full looks for in the certificate of the server; host by default'),
  applicationName: z.string().min(1).max(63).optional().describe('Shown in pg_stat_activity; common-handlers by default'),
  poolerMode: z
    .enum(['session', 'transaction'])
    .default('session')
    .describe('transaction behind a pooler that lends a server for one transaction'),
  connectTimeoutMs: milliseconds
    .min(1)
    .optional()
    .describe('Time to make a connection, credentials and login included, in milliseconds; 10 000 by default'),
  statementTimeoutMs: milliseconds.default(0).describe('The server ends a statement after so many milliseconds; 0: never'),
  lockTimeoutMs: milliseconds
    .default(0)
    .describe('The server ends a statement that has waited so many milliseconds for a lock; 0: never'),
  idleInTransactionTimeoutMs: milliseconds
    .default(0)
    .describe('The server ends a transaction in which nothing ran for so many milliseconds; 0: never'),
  retry: retrySchema.prefault({}).describe('How often connecting is tried'),
  pool: poolSchema.prefault({}).describe('How many connections are kept'),
})

type Options = z.output<typeof optionsSchema>

/** One strict schema for all options but the logger. Apps embed it in their own. */
export const postgresConfigSchema: z.ZodType<PostgresConfig, PostgresConfigInput> = schemaFor('options')

/** Who says as whom to log in: the options, or a provider beside them. */
type LoginFrom = 'options' | 'provider'

function schemaFor(loginFrom: LoginFrom): z.ZodType<PostgresConfig, PostgresConfigInput> {
  return optionsSchema.transform((options, context) => {
    const problem = (path: string, message: string): void => {
      context.issues.push({ code: 'custom', message, path: [path], input: undefined })
    }
    const given = options.url === undefined ? {} : fromUrl(options, options.url, problem)
    const { sslMode = 'disable', ...config } = { ...defined(options), ...given }
    if (loginFrom === 'options' && config.user === undefined) problem('user', 'missing')
    else if (loginFrom === 'provider' && (config.user !== undefined || config.password !== undefined)) {
      problem('credentials', 'gives user and password; give none beside it')
    } else if (loginFrom === 'provider' && config.database === undefined) problem('database', 'missing: the user may change')
    else if (config.sslRootCert !== undefined && (sslMode === 'disable' || sslMode === 'require')) {
      problem('sslRootCert', `is not looked at with sslMode "${sslMode}": use verify-ca or verify-full`)
    } else if (config.sslServerName !== undefined && sslMode !== 'verify-full') {
      problem('sslServerName', `is not looked at with sslMode "${sslMode}": use verify-full`)
    } else if ((config.sslCert === undefined) !== (config.sslKey === undefined)) {
      problem(config.sslCert === undefined ? 'sslCert' : 'sslKey', 'missing: certificate and key go together')
    } else if (config.sslCert !== undefined && sslMode === 'disable') {
      problem('sslCert', 'is not used with sslMode "disable"')
    } else if (config.pool.min > config.pool.max) problem('pool', 'min is greater than max')
    return {
      host: config.host ?? 'localhost',
      port: config.port ?? 5432,
      database: config.database ?? config.user ?? '',
      user: config.user ?? '',
      password: config.password,
      sslMode,
      sslRootCert: config.sslRootCert,
      sslCert: config.sslCert,
      sslKey: config.sslKey,
      sslServerName: config.sslServerName,
      applicationName: config.applicationName ?? 'common-handlers',
      poolerMode: config.poolerMode,
      connectTimeoutMs: config.connectTimeoutMs ?? 10_000,
      statementTimeoutMs: config.statementTimeoutMs,
      lockTimeoutMs: config.lockTimeoutMs,
      idleInTransactionTimeoutMs: config.idleInTransactionTimeoutMs,
      retry: config.retry,
      pool: config.pool,
    }
  })
}

const defined = (options: Options): Options =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Options

/** The options that have no default in the schema, so that the URL can give them. */
type Place = Partial<
  Pick<
    Options,
    | 'host'
    | 'port'
    | 'database'
    | 'user'
    | 'password'
    | 'sslMode'
    | 'sslRootCert'
    | 'sslCert'
    | 'sslKey'
    | 'applicationName'
    | 'connectTimeoutMs'
  >
>

const URL_PARAMETERS = ['sslmode', 'sslrootcert', 'sslcert', 'sslkey', 'application_name', 'connect_timeout']

/** What a URL says. An option given beside it that the URL also gives is a contradiction, not a choice. */
function fromUrl(options: Options, secretUrl: Secret, problem: (path: string, message: string) => void): Place {
  let url: URL
  try {
    url = new URL(secretUrl.expose())
  } catch {
    problem('url', 'is not a URL')
    return {}
  }
  if (!/^postgres(ql)?:$/.test(url.protocol)) problem('url', 'does not begin with postgres://')
  const place: { -readonly [K in keyof Place]: Place[K] } = {}
  try {
    // A folder of a Unix socket stands percent-encoded where the host stands, as libpq has it.
    if (url.hostname !== '') place.host = decodeURIComponent(url.hostname).replace(/^\[(.*)\]$/, '$1')
    if (url.username !== '') place.user = decodeURIComponent(url.username)
    if (url.password !== '') place.password = new Secret(decodeURIComponent(url.password))
    if (url.pathname.length > 1) place.database = decodeURIComponent(url.pathname.slice(1))
  } catch {
    problem('url', 'has a percent sign that encodes nothing; write %25 for the sign itself')
  }
  if (url.port !== '') place.port = Number(url.port)
  for (const [name, value] of url.searchParams) {
    if (name === 'sslmode') {
      const mode = sslModes.find((known) => known === value)
      if (mode === undefined) problem('url', `sslmode=${value} is not one of ${sslModes.join(', ')}`)
      else place.sslMode = mode
    } else if (name === 'sslrootcert') place.sslRootCert = value
    else if (name === 'sslcert') place.sslCert = value
    else if (name === 'sslkey') place.sslKey = new Secret(value)
    else if (name === 'application_name') place.applicationName = value
    else if (name === 'connect_timeout' && /^[1-9]\d{0,5}$/.test(value)) place.connectTimeoutMs = Number(value) * 1000
    else problem('url', `cannot use its parameter "${name}"; known: ${URL_PARAMETERS.join(', ')}`)
  }
  for (const key of Object.keys(place) as (keyof Place)[]) {
    if (options[key] !== undefined) problem(key, 'is given twice: in the url and by itself')
  }
  return place
}

/** Parses options. @throws ConfigError `POSTGRES_CONFIG_INVALID` */
export function parseConfig(input: PostgresConfigInput, withProvider: boolean): PostgresConfig {
  const parsed = (withProvider ? schemaFor('provider') : postgresConfigSchema).safeParse(input)
  if (parsed.success) return parsed.data
  const problems = parsed.error.issues.map((issue) => `${issue.path.map(String).join('.') || '(top)'}: ${issue.message}`)
  throw new ConfigError(`the options of PostgresHandler cannot be used:\n${problems.map((line) => `  ${line}`).join('\n')}`, {
    code: 'POSTGRES_CONFIG_INVALID',
    context: { problems },
  })
}

/** The variables of libpq that name an option (PostgreSQL, "Environment Variables"). */
const libpqVariables = {
  PGHOST: 'host',
  PGPORT: 'port',
  PGDATABASE: 'database',
  PGUSER: 'user',
  PGPASSWORD: 'password',
  PGSSLMODE: 'sslMode',
  PGSSLROOTCERT: 'sslRootCert',
  PGSSLCERT: 'sslCert',
  PGSSLKEY: 'sslKey',
  PGAPPNAME: 'applicationName',
  PGCONNECT_TIMEOUT: 'connectTimeoutMs',
} as const

/** Options from `PGHOST`, `PGUSER` and their like; an empty variable is an unset one. */
export function configFromEnvironment(
  variables: Readonly<Record<string, string | undefined>> = process.env,
): PostgresConfigInput {
  const found: Record<string, string | number> = {}
  for (const [name, option] of Object.entries(libpqVariables)) {
    const value = variables[name]
    if (value === undefined || value === '') continue
    if (option === 'port') found[option] = Number(value)
    else if (option === 'connectTimeoutMs') found[option] = Number(value) * 1000
    else found[option] = value
  }
  return found
}

/** TLS settings for Node; false for none. @throws ConfigError `POSTGRES_CERT_UNREADABLE` */
export async function tlsOptions(config: PostgresConfig): Promise<ConnectionOptions | false> {
  const { sslMode, sslRootCert, sslCert, sslKey, sslServerName } = config
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
    ...(sslServerName === undefined
      ? {}
      : { checkServerIdentity: (_: string, certificate: PeerCertificate) => checkServerIdentity(sslServerName, certificate) }),
  }
}

async function pem(option: 'sslRootCert' | 'sslCert' | 'sslKey', given: string): Promise<string> {
  if (given.includes('-----BEGIN')) return given
  try {
    return await readFile(given, 'utf8')
  } catch (cause) {
    throw new ConfigError(`cannot read the file of ${option}: ${(cause as Error).message}`, {
      code: 'POSTGRES_CERT_UNREADABLE',
      context: { option },
      cause,
    })
  }
}
