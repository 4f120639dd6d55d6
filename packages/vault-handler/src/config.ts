import { ConfigError, defaultRetryPolicy, type RetryPolicy, type Secret, secret } from '@common-handlers/core'
import { z } from 'zod'
import { parseGoDuration } from './go-duration.ts'

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

/** AppRole: for services. At most one of the four ways to give a secret id; none where the role does not bind one. */
export interface AppRoleConfig<S = Secret> {
  readonly roleId: S
  readonly secretId?: S | undefined
  /** Read anew at each login, so that a rotated secret id is found. */
  readonly secretIdFile?: string | undefined
  /** A wrapping token (`vault write -wrap-ttl=60s -f auth/approle/role/x/secret-id`), unwrapped once, at the first login. */
  readonly secretIdWrapped?: S | undefined
  /** A file that holds one. A later login unwraps what the file holds by then, if it is another one. */
  readonly secretIdWrappedFile?: string | undefined
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

/** The client certificate of `tls.clientCertificateFile`. */
export interface CertificateConfig {
  /** Name of the role; default: every role is tried against the certificate. */
  readonly name?: string | undefined
  /** Default `cert`. */
  readonly mount?: string | undefined
}

/** Keys of AWS, as its SDK hands them over. */
export interface AwsCredentials {
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly sessionToken?: string | undefined
}

/** An AWS identity: the server asks AWS who signed a request that this client signs and never sends. */
export interface AwsConfig {
  /** Default: the name of the IAM role or user. */
  readonly role?: string | undefined
  /** Called at each login; `fromNodeProviderChain()` of the AWS SDK fits. Default: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`. */
  readonly credentials?: (() => Promise<AwsCredentials>) | undefined
  /** Whose STS is asked. Default `us-east-1`. */
  readonly region?: string | undefined
  /** Where STS is, for partitions and private endpoints. Default `https://sts.<region>.amazonaws.com`; without a region `https://sts.amazonaws.com`. */
  readonly stsEndpoint?: string | undefined
  /** Signed as `X-Vault-AWS-IAM-Server-ID`, where the mount asks for one. */
  readonly serverId?: string | undefined
  /** Default `aws`. */
  readonly mount?: string | undefined
}

/** Secrets of the KV engine are kept for a while instead of being read each time. */
export interface CacheConfig {
  /** How long what was read is given out again, in milliseconds. */
  readonly ttlMs: number
  /** How much longer it is given out while the server cannot be reached or fails, in milliseconds. Default 0. */
  readonly staleIfErrorMs: number
  /** The least recently used is dropped beyond so many. Default 1,000. */
  readonly maxEntries: number
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
  readonly cert?: CertificateConfig | undefined
  readonly aws?: AwsConfig | undefined
  readonly namespace?: string | undefined
  readonly rateLimit?: RateLimitConfig | undefined
}

/**
 * What a user writes. At most one of `token`, `tokenFile`, `appRole`, `userpass`, `kubernetes`, `jwt`, `cert`, `aws`; none for
 * an agent that adds the token itself.
 */
export interface VaultConfigInput extends Shared {
  readonly token?: string | Secret | undefined
  readonly appRole?: AppRoleConfig<string | Secret> | undefined
  readonly userpass?: UserpassConfig<string | Secret> | undefined
  readonly jwt?: JwtConfig<string | Secret> | undefined
  readonly tls?: { readonly [K in keyof VaultTlsConfig]?: VaultTlsConfig[K] | undefined } | undefined
  /** `http://host:port` of a proxy, with `user:password@` where it wants them. */
  readonly proxy?: string | Secret | undefined
  /** How long one request may take, in milliseconds. Default 30 000. */
  readonly timeoutMs?: number | undefined
  readonly retry?: { readonly [K in keyof RetryPolicy]?: RetryPolicy[K] | undefined } | undefined
  /** Renew the token in the background, from the first call to `close()`. Default true. */
  readonly renewToken?: boolean | undefined
  /** Revoke, at close, a token that was obtained by logging in. Default true. */
  readonly revokeOnClose?: boolean | undefined
  /** Off by default. */
  readonly cache?: (Pick<CacheConfig, 'ttlMs'> & { readonly [K in keyof CacheConfig]?: CacheConfig[K] | undefined }) | undefined
}

/** The same, parsed: secrets wrapped, defaults filled in. */
export interface VaultConfig extends Shared {
  readonly token?: Secret | undefined
  readonly appRole?: AppRoleConfig | undefined
  readonly userpass?: UserpassConfig | undefined
  readonly jwt?: JwtConfig | undefined
  readonly tls: VaultTlsConfig
  readonly proxy?: Secret | undefined
  readonly timeoutMs: number
  readonly retry: RetryPolicy
  readonly renewToken: boolean
  readonly revokeOnClose: boolean
  readonly cache?: CacheConfig | undefined
}

const text = (): z.ZodString => z.string().min(1)
const mount = (fallback: string): z.ZodOptional<z.ZodString> =>
  text().optional().describe(`where the method is mounted under auth/; ${fallback} by default`)

/** The ways to log in, of which at most one is given. */
export const loginMethods: readonly (keyof VaultConfig & keyof VaultConfigInput)[] = [
  'token',
  'tokenFile',
  'appRole',
  'userpass',
  'kubernetes',
  'jwt',
  'cert',
  'aws',
]

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
        secretIdWrapped: secret().optional().describe('wrapping token of the secret id; unwrapped once, at the first login'),
        secretIdWrappedFile: text().optional().describe('file that holds such a wrapping token'),
        mount: mount('approle'),
      })
      .refine(
        ({ secretId, secretIdFile, secretIdWrapped, secretIdWrappedFile }) =>
          [secretId, secretIdFile, secretIdWrapped, secretIdWrappedFile].filter((way) => way !== undefined).length <= 1,
        'give one of secretId, secretIdFile, secretIdWrapped and secretIdWrappedFile',
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
        tokenFile: text().optional().describe('token of the service account; the path that Kubernetes mounts by default'),
        mount: mount('kubernetes'),
      })
      .optional()
      .describe('log in by the service account of a Kubernetes pod'),
    jwt: z
      .strictObject({
        role: text().optional().describe('role of the auth method; its default role by default'),
        jwt: secret().optional().describe('JSON Web Token'),
        jwtFile: text().optional().describe('file that holds the JSON Web Token; read at each login'),
        mount: mount('jwt'),
      })
      .refine((value) => (value.jwt === undefined) !== (value.jwtFile === undefined), 'give jwt or jwtFile')
      .optional()
      .describe('log in by a JSON Web Token'),
    cert: z
      .strictObject({
        name: text().optional().describe('role of the auth method; every one is tried by default'),
        mount: mount('cert'),
      })
      .optional()
      .describe('log in by the certificate of tls.clientCertificateFile'),
    aws: z
      .strictObject({
        role: text().optional().describe('role of the auth method; the name of the IAM role or user by default'),
        credentials: z
          .custom<() => Promise<AwsCredentials>>((value) => typeof value === 'function', 'expected a function')
          .optional()
          .describe('function that gives the keys of AWS, called at each login; `AWS_ACCESS_KEY_ID` and so on by default'),
        region: text().optional().describe('region of the STS that is asked; us-east-1 by default'),
        stsEndpoint: z
          .url({ protocol: /^https?$/ })
          .optional()
          .describe('address of STS; that of the region (or the global one) by default'),
        serverId: text().optional().describe('value of the header X-Vault-AWS-IAM-Server-ID where the mount asks for one'),
        mount: mount('aws'),
      })
      .optional()
      .describe('log in by an AWS identity'),
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
    proxy: secret()
      .refine((value) => /^https?:$/.test(URL.parse(value.expose())?.protocol ?? ''), 'expected http://host:port')
      .optional()
      .describe('proxy to go through: http://host:port, with user:password@ where it wants them'),
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
        burst: z.int().positive().optional().describe('requests at once; `perSecond` by default'),
      })
      .optional()
      .describe('limit on the requests made'),
    renewToken: z.boolean().default(true).describe('renew the token in the background, from the first call to close'),
    revokeOnClose: z.boolean().default(true).describe('revoke, at close, a token that was obtained by logging in'),
    cache: z
      .strictObject({
        ttlMs: z.int().positive().describe('how long a secret of the KV engine is given out again, in milliseconds'),
        staleIfErrorMs: z
          .int()
          .min(0)
          .default(0)
          .describe('how much longer while the server cannot be reached or fails, in milliseconds'),
        maxEntries: z.int().positive().default(1_000).describe('secrets kept; the least recently used goes first'),
      })
      .optional()
      .describe('keep secrets for a while'),
  })
  .superRefine((value, context) => {
    const given = loginMethods.filter((method) => value[method] !== undefined)
    if (given.length > 1) context.addIssue({ code: 'custom', message: `give one way to log in, not ${given.join(' and ')}` })
    if (value.cert !== undefined && (value.tls.clientCertificateFile === undefined || !value.address.startsWith('https:'))) {
      context.addIssue({
        code: 'custom',
        message: 'cert needs an address of https:// and tls.clientCertificateFile',
        path: ['cert'],
      })
    }
    if (value.proxy !== undefined && value.address.startsWith('unix:')) {
      context.addIssue({ code: 'custom', message: 'a Unix socket is not reached through a proxy', path: ['proxy'] })
    }
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
 * `VAULT_RATE_LIMIT` (`rate` or `rate:burst`), `VAULT_PROXY_ADDR` (or `VAULT_HTTP_PROXY`); and `VAULT_TOKEN_FILE`. The same
 * names with `BAO_`, as OpenBao's client reads them, go first. An empty variable is an unset one.
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
    proxy: plain('PROXY_ADDR') ?? plain('HTTP_PROXY'),
    timeoutMs: read('CLIENT_TIMEOUT', parseTimeout),
    retry: maxRetries === undefined ? undefined : { attempts: maxRetries + 1 },
    rateLimit: read('RATE_LIMIT', parseRateLimit),
  })
}

/**
 * The keys of AWS in the environment.
 * @throws ConfigError `VAULT_AWS_CREDENTIALS` where there are none
 */
export function awsCredentialsFromEnvironment(variables: Variables = process.env): AwsCredentials {
  const { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey, AWS_SESSION_TOKEN: sessionToken } = variables
  if (accessKeyId === undefined || accessKeyId === '' || secretAccessKey === undefined || secretAccessKey === '') {
    throw new ConfigError(
      'there is no AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment; give aws.credentials, such as fromNodeProviderChain()',
      { code: 'VAULT_AWS_CREDENTIALS' },
    )
  }
  return { accessKeyId, secretAccessKey, ...(sessionToken === undefined || sessionToken === '' ? {} : { sessionToken }) }
}

function withoutUndefined<T extends object>(value: T): T {
  return Object.fromEntries(Object.entries(value).filter(([, inner]) => inner !== undefined)) as T
}

/** As Go's strconv.ParseBool. */
function parseGoBoolean(value: string): boolean | undefined {
  if (/^(1|t|true)$/i.test(value)) return true
  return /^(0|f|false)$/i.test(value) ? false : undefined
}

/** A number is seconds, as in the Go client; else Go's notation. The result is milliseconds. */
function parseTimeout(value: string): number | undefined {
  return /^\d+$/.test(value) ? Number(value) * 1000 : parseGoDuration(value)
}

function parseRateLimit(value: string): RateLimitConfig | undefined {
  const match = /^(\d+(?:\.\d+)?)(?::(\d+))?$/.exec(value)
  if (match === null) return undefined
  return { perSecond: Number(match[1]), ...(match[2] === undefined ? {} : { burst: Number(match[2]) }) }
}
