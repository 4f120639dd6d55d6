import { ConfigError, defaultRetryPolicy, type RetryPolicy, type Secret, secret } from '@common-handlers/core'
import { z } from 'zod'

/** How to speak TLS with the server. Files are PEM and are read when the first request is made. */
export interface VaultTlsConfig {
  /** One file of certificates to trust in place of the system's. */
  readonly caFile?: string | undefined
  /** A folder of such files. */
  readonly caDirectory?: string | undefined
  readonly clientCertificateFile?: string | undefined
  readonly clientKeyFile?: string | undefined
  /** The name the server's certificate must carry, where it differs from the host in the address. */
  readonly serverName?: string | undefined
  /** False trusts any certificate: for a trial on one's own machine. Default true. */
  readonly verify: boolean
}

/** AppRole: for services. One of `secretId` and `secretIdFile`, or neither where the role does not bind one. */
export interface AppRoleConfig<S = Secret> {
  readonly roleId: S
  readonly secretId?: S | undefined
  /** Read anew at each login, so that a rotated secret id is found. */
  readonly secretIdFile?: string | undefined
  /** Where the method is mounted under `auth/`. Default `approle`. */
  readonly mount?: string | undefined
}

/** User name and password. */
export interface UserpassConfig<S = Secret> {
  readonly username: string
  readonly password?: S | undefined
  readonly passwordFile?: string | undefined
  /** Default `userpass`. */
  readonly mount?: string | undefined
}

/** The service account of a Kubernetes pod. */
export interface KubernetesConfig {
  readonly role: string
  /** Default `/var/run/secrets/kubernetes.io/serviceaccount/token`, read anew at each login. */
  readonly tokenFile?: string | undefined
  /** Default `kubernetes`. */
  readonly mount?: string | undefined
}

/** A JSON Web Token from an identity provider, such as a CI system. */
export interface JwtConfig<S = Secret> {
  /** Default: the default role of the mount. */
  readonly role?: string | undefined
  readonly jwt?: S | undefined
  readonly jwtFile?: string | undefined
  /** Default `jwt`. */
  readonly mount?: string | undefined
}

/** At most so many requests a second, with bursts of at most `burst`. */
export interface RateLimitConfig {
  readonly perSecond: number
  /** Default: `perSecond`, rounded up. */
  readonly burst?: number | undefined
}

interface Shared {
  /** `https://host:8200`, or `unix:///run/vault/proxy.sock` for an agent on this machine. */
  readonly address: string
  /** A file that holds a token, such as the sink of an agent; read anew when the token is refused. */
  readonly tokenFile?: string | undefined
  readonly kubernetes?: KubernetesConfig | undefined
  readonly namespace?: string | undefined
  readonly rateLimit?: RateLimitConfig | undefined
}

/** What a user writes. At most one of `token`, `tokenFile`, `appRole`, `userpass`, `kubernetes`, `jwt`; none for an agent that adds the token itself. */
export interface VaultConfigInput extends Shared {
  readonly token?: string | Secret | undefined
  readonly appRole?: AppRoleConfig<string | Secret> | undefined
  readonly userpass?: UserpassConfig<string | Secret> | undefined
  readonly jwt?: JwtConfig<string | Secret> | undefined
  readonly tls?: { readonly [K in keyof VaultTlsConfig]?: VaultTlsConfig[K] | undefined } | undefined
  /** How long one request may take, in milliseconds. Default 30 000. */
  readonly timeoutMs?: number | undefined
  readonly retry?: { readonly [K in keyof RetryPolicy]?: RetryPolicy[K] | undefined } | undefined
  /** Revoke, at close, a token that was obtained by logging in. Default true. */
  readonly revokeOnClose?: boolean | undefined
}

/** The same, parsed: secrets wrapped, defaults filled in. */
export interface VaultConfig extends Shared {
  readonly token?: Secret | undefined
  readonly appRole?: AppRoleConfig | undefined
  readonly userpass?: UserpassConfig | undefined
  readonly jwt?: JwtConfig | undefined
  readonly tls: VaultTlsConfig
  readonly timeoutMs: number
  readonly retry: RetryPolicy
  readonly revokeOnClose: boolean
}

const text = (): z.ZodString => z.string().min(1)
const mount = (fallback: string): z.ZodOptional<z.ZodString> =>
  text().optional().describe(`where the method is mounted under auth/; ${fallback} if not given`)

const methods = ['token', 'tokenFile', 'appRole', 'userpass', 'kubernetes', 'jwt'] as const

/** The configuration of a {@link VaultHandler}, for the configuration of an app too. */
export const vaultConfigSchema: z.ZodType<VaultConfig, VaultConfigInput> = z
  .strictObject({
    address: text()
      .refine(isAddress, 'expected http://host:port, https://host:port or unix:///path, without user and password')
      .describe('address of the server: https://host:8200 or unix:///path/to/socket'),
    token: secret().optional().describe('token'),
    tokenFile: text().optional().describe('file that holds a token; read again when the token is refused'),
    appRole: z
      .strictObject({
        roleId: secret().describe('role id'),
        secretId: secret().optional().describe('secret id'),
        secretIdFile: text().optional().describe('file that holds the secret id; read at each login'),
        mount: mount('approle'),
      })
      .refine(
        (value) => value.secretId === undefined || value.secretIdFile === undefined,
        'give secretId or secretIdFile, not both',
      )
      .optional()
      .describe('log in by AppRole'),
    userpass: z
      .strictObject({
        username: text().describe('user name'),
        password: secret().optional().describe('password'),
        passwordFile: text().optional().describe('file that holds the password; read at each login'),
        mount: mount('userpass'),
      })
      .refine((value) => (value.password === undefined) !== (value.passwordFile === undefined), 'give password or passwordFile')
      .optional()
      .describe('log in by user name and password'),
    kubernetes: z
      .strictObject({
        role: text().describe('role of the auth method'),
        tokenFile: text().optional().describe('token of the service account; the path Kubernetes mounts if not given'),
        mount: mount('kubernetes'),
      })
      .optional()
      .describe('log in by the service account of a Kubernetes pod'),
    jwt: z
      .strictObject({
        role: text().optional().describe('role of the auth method; its default role if not given'),
        jwt: secret().optional().describe('JSON Web Token'),
        jwtFile: text().optional().describe('file that holds the JSON Web Token; read at each login'),
        mount: mount('jwt'),
      })
      .refine((value) => (value.jwt === undefined) !== (value.jwtFile === undefined), 'give jwt or jwtFile')
      .optional()
      .describe('log in by a JSON Web Token'),
    namespace: text().optional().describe('namespace'),
    tls: z
      .strictObject({
        caFile: text().optional().describe('certificates to trust in place of the system’s (PEM)'),
        caDirectory: text().optional().describe('folder of certificates to trust (PEM)'),
        clientCertificateFile: text().optional().describe('certificate of this client (PEM)'),
        clientKeyFile: text().optional().describe('key of this client (PEM)'),
        serverName: text().optional().describe('name the server’s certificate must carry'),
        verify: z.boolean().default(true).describe('false trusts any certificate'),
      })
      .refine(
        (value) => (value.clientCertificateFile === undefined) === (value.clientKeyFile === undefined),
        'clientCertificateFile and clientKeyFile go together',
      )
      .prefault({}),
    timeoutMs: z.int().positive().default(30_000).describe('how long one request may take, in milliseconds'),
    retry: z
      .strictObject({
        attempts: z.int().positive().default(defaultRetryPolicy.attempts).describe('tries in all, the first included'),
        budgetMs: z.int().min(0).default(defaultRetryPolicy.budgetMs).describe('time for all tries together, in milliseconds'),
        baseDelayMs: z.int().min(0).default(defaultRetryPolicy.baseDelayMs).describe('bound of the first wait, in milliseconds'),
        maxDelayMs: z.int().min(0).default(defaultRetryPolicy.maxDelayMs).describe('bound of every wait, in milliseconds'),
      })
      .prefault({}),
    rateLimit: z
      .strictObject({
        perSecond: z.number().positive().describe('requests a second'),
        burst: z.int().positive().optional().describe('requests at once; perSecond if not given'),
      })
      .optional()
      .describe('limit on the requests made'),
    revokeOnClose: z.boolean().default(true).describe('revoke, at close, a token that was obtained by logging in'),
  })
  .superRefine((value, context) => {
    const given = methods.filter((method) => value[method] !== undefined)
    if (given.length > 1) context.addIssue({ code: 'custom', message: `give one way to log in, not ${given.join(' and ')}` })
  })

function isAddress(value: string): boolean {
  const url = URL.parse(value)
  if (url === null || url.username !== '' || url.password !== '' || url.search !== '' || url.hash !== '') return false
  if (url.protocol === 'unix:') return url.host === '' && url.pathname.length > 1
  return (url.protocol === 'http:' || url.protocol === 'https:') && url.hostname !== ''
}

/** Parses what a user gave. @throws ConfigError `VAULT_CONFIG_INVALID` */
export function parseVaultConfig(input: VaultConfigInput): VaultConfig {
  const parsed = vaultConfigSchema.safeParse(input)
  if (parsed.success) return parsed.data
  const problems = parsed.error.issues.map(
    (issue) => `${issue.path.length > 0 ? issue.path.join('.') : '(top)'}: ${issue.message}`,
  )
  throw new ConfigError(`the options of VaultHandler cannot be used:\n${problems.map((line) => `  ${line}`).join('\n')}`, {
    code: 'VAULT_CONFIG_INVALID',
    context: { problems },
  })
}

/** Environment variables by name, as in `process.env`. */
export type Variables = Readonly<Record<string, string | undefined>>

/**
 * The configuration that the variables of the Go client describe: `VAULT_ADDR` (default `https://127.0.0.1:8200`),
 * `VAULT_TOKEN`, `VAULT_NAMESPACE`, `VAULT_CACERT`, `VAULT_CAPATH`, `VAULT_CLIENT_CERT`, `VAULT_CLIENT_KEY`,
 * `VAULT_TLS_SERVER_NAME`, `VAULT_SKIP_VERIFY`, `VAULT_CLIENT_TIMEOUT` (seconds, or `1m30s`), `VAULT_MAX_RETRIES`,
 * `VAULT_RATE_LIMIT` (`rate` or `rate:burst`); and `VAULT_TOKEN_FILE`. The same names with `BAO_`, as OpenBao's client reads
 * them, go first. An empty variable is an unset one.
 * @throws ConfigError `VAULT_CONFIG_INVALID`
 */
export function vaultConfigFromEnvironment(variables: Variables = process.env): VaultConfigInput {
  const read = <T>(name: string, parse: (value: string) => T | undefined): T | undefined => {
    const found = [`BAO_${name}`, `VAULT_${name}`].find((full) => variables[full] !== undefined && variables[full] !== '')
    if (found === undefined) return undefined
    const value = parse(variables[found] ?? '')
    if (value === undefined)
      throw new ConfigError(`${found} cannot be read`, { code: 'VAULT_CONFIG_INVALID', context: { variable: found } })
    return value
  }
  const plain = (name: string): string | undefined => read(name, (value) => value)
  const skipVerify = read('SKIP_VERIFY', parseGoBoolean)
  const maxRetries = read('MAX_RETRIES', (value) => (/^\d+$/.test(value) ? Number(value) : undefined))
  const token = plain('TOKEN')
  return withoutUndefined({
    address: plain('ADDR') ?? 'https://127.0.0.1:8200',
    token,
    tokenFile: token === undefined ? plain('TOKEN_FILE') : undefined,
    namespace: plain('NAMESPACE'),
    tls: withoutUndefined({
      caFile: plain('CACERT'),
      caDirectory: plain('CAPATH'),
      clientCertificateFile: plain('CLIENT_CERT'),
      clientKeyFile: plain('CLIENT_KEY'),
      serverName: plain('TLS_SERVER_NAME'),
      verify: skipVerify === undefined ? undefined : !skipVerify,
    }),
    timeoutMs: read('CLIENT_TIMEOUT', parseGoDuration),
    retry: maxRetries === undefined ? undefined : { attempts: maxRetries + 1 },
    rateLimit: read('RATE_LIMIT', parseRateLimit),
  })
}

function withoutUndefined<T extends object>(value: T): T {
  return Object.fromEntries(Object.entries(value).filter(([, inner]) => inner !== undefined)) as T
}

/** As Go's strconv.ParseBool. */
function parseGoBoolean(value: string): boolean | undefined {
  if (/^(1|t|true)$/i.test(value)) return true
  return /^(0|f|false)$/i.test(value) ? false : undefined
}

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

/** A number is seconds (as in the Go client), `1m30s` is Go's notation; the result is milliseconds. */
function parseGoDuration(value: string): number | undefined {
  if (/^\d+$/.test(value)) return Number(value) * 1000
  if (!/^(?:\d+(?:\.\d+)?(?:ms|s|m|h))+$/.test(value)) return undefined
  let total = 0
  for (const [, amount, unit] of value.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g))
    total += Number(amount) * (UNIT_MS[unit ?? ''] ?? 0)
  return Math.round(total)
}

function parseRateLimit(value: string): RateLimitConfig | undefined {
  const match = /^(\d+(?:\.\d+)?)(?::(\d+))?$/.exec(value)
  if (match === null) return undefined
  return { perSecond: Number(match[1]), ...(match[2] === undefined ? {} : { burst: Number(match[2]) }) }
}
