import { ConfigError, defaultRetryPolicy, type RetryPolicy, secret, type Secret } from '@common-handlers/core'
import { z } from 'zod'

/** How the server's certificate is checked, and the client's own. */
export interface TlsOptions {
  /** PEM text of the authorities to trust in place of the system's own. */
  readonly caCert?: string | undefined
  /** False accepts any certificate. Default true. */
  readonly verify?: boolean | undefined
  /** The name that the certificate must have, where it is not the host of `url`. */
  readonly serverName?: string | undefined
  /** PEM text of a certificate to log in with, and the certificates between it and its authority. */
  readonly clientCert?: string | undefined
  /** PEM text of its key. */
  readonly clientKey?: string | Secret | undefined
  /** Where the key is encrypted. */
  readonly clientKeyPassphrase?: string | Secret | undefined
}

/** How the rows of a result may come when the server spools results; see the README. */
export const encodings = ['json+zstd', 'json'] as const
export type Encoding = (typeof encodings)[number]

export interface SpoolingOptions {
  /** In order of preference; none for direct results. Default `['json+zstd', 'json']`. */
  readonly encodings?: readonly Encoding[] | undefined
  /** Segments that are fetched ahead of the reader, at once: more for a store that is far away. Default 1. */
  readonly parallel?: number | undefined
}

/** What a caller writes. Only `url` and `user` are required. */
export interface TrinoConfigInput {
  /** `https://trino.example.com:8443`, without a path, user or password. */
  readonly url: string
  /** The name the statements run under (`X-Trino-User`). */
  readonly user: string
  /** For basic authentication. Sent over https, or to a loopback address. */
  readonly password?: string | Secret | undefined
  /** A JWT or an OAuth2 access token, sent as a bearer token. Sent over https, or to a loopback address. */
  readonly token?: string | Secret | undefined
  /** The name the statements run under, where it is not that of who logs in. The server must allow that. */
  readonly sessionUser?: string | undefined
  /** `{ system: 'admin', lake: 'ALL' }`: the role in each catalog; also `ALL` and `NONE`. */
  readonly roles?: Readonly<Record<string, string>> | undefined
  /** Handed on by the server to the connectors that ask for them by name. */
  readonly extraCredentials?: Readonly<Record<string, string | Secret>> | undefined
  /** Catalog of names that do not spell theirs. */
  readonly catalog?: string | undefined
  /** Schema of names that do not spell theirs; needs `catalog`. */
  readonly schema?: string | undefined
  /** Where functions are looked for: `lake.functions, system.builtin`. */
  readonly path?: string | undefined
  /** `{ query_max_run_time: '10m', 'lake.expire_snapshots_min_retention': '1d' }` */
  readonly sessionProperties?: Readonly<Record<string, string>> | undefined
  /** Zone of the session, an IANA name. Default `UTC`, whatever the server's own is. */
  readonly timeZone?: string | undefined
  /** What the statements come from, as resource groups and the web interface show it. Default `common-handlers`. */
  readonly source?: string | undefined
  readonly clientTags?: readonly string[] | undefined
  readonly tls?: TlsOptions | undefined
  /** Limit of one call, from the POST to the last row, in milliseconds. Default one hour. */
  readonly timeoutMs?: number | undefined
  /** Limit of the silence within one HTTP exchange, in milliseconds. Trino answers within a second or so. Default 60 000. */
  readonly requestTimeoutMs?: number | undefined
  /** Limit of making a connection, in milliseconds. Default 10 000. */
  readonly connectTimeoutMs?: number | undefined
  /** Sockets that may be open at once; each statement under way uses one. Default 16. */
  readonly connections?: number | undefined
  /** How values are bound: `immediate` (default) by EXECUTE IMMEDIATE, or `prepared` for servers before Trino 418. */
  readonly parameters?: 'immediate' | 'prepared' | undefined
  readonly spooling?: SpoolingOptions | undefined
  /** How long a reader may rest before the server is told that it is still there, in milliseconds. Default 30 000. */
  readonly heartbeatMs?: number | undefined
  /** Tries and time for one exchange that may be repeated. Default 10 tries in 60 s. */
  readonly retry?: { readonly [Key in keyof RetryPolicy]?: RetryPolicy[Key] | undefined } | undefined
}

/** The configuration after parsing: defaults filled in, secrets wrapped. */
export interface TrinoConfig {
  readonly url: string
  readonly user: string
  readonly password?: Secret | undefined
  readonly token?: Secret | undefined
  readonly sessionUser?: string | undefined
  readonly roles: Readonly<Record<string, string>>
  readonly extraCredentials: Readonly<Record<string, Secret>>
  readonly catalog?: string | undefined
  readonly schema?: string | undefined
  readonly path?: string | undefined
  readonly sessionProperties: Readonly<Record<string, string>>
  readonly timeZone: string
  readonly source: string
  readonly clientTags: readonly string[]
  readonly tls: {
    readonly caCert?: string | undefined
    readonly verify: boolean
    readonly serverName?: string | undefined
    readonly clientCert?: string | undefined
    readonly clientKey?: Secret | undefined
    readonly clientKeyPassphrase?: Secret | undefined
  }
  readonly timeoutMs: number
  readonly requestTimeoutMs: number
  readonly connectTimeoutMs: number
  readonly connections: number
  readonly parameters: 'immediate' | 'prepared'
  readonly spooling: { readonly encodings: readonly Encoding[]; readonly parallel: number }
  readonly heartbeatMs: number
  readonly retry: RetryPolicy
}

/** A query outlives a restart of a load balancer: more tries, and longer, than core's default. */
const retryDefaults: RetryPolicy = { ...defaultRetryPolicy, attempts: 10, budgetMs: 60_000 }

const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/

/** What fits into an HTTP header as it is. */
const headerText = (): z.ZodType<string, string> =>
  z
    .string()
    .min(1)
    .regex(/^[\x20-\x7e]+$/, 'only printable ASCII characters can stand in a header')

/** What can be a key in a list of `key=value`. */
const headerName = (): z.ZodString => z.string().regex(/^[^=,\s\p{C}]+$/u, 'a name without spaces, = and ,')

const pem = (): z.ZodString => z.string().includes('-----BEGIN ', 'expected PEM text, not the name of a file')

/** Strict: an unknown key is an error. */
export const trinoConfigSchema: z.ZodType<TrinoConfig, TrinoConfigInput> = z
  .strictObject({
    url: z
      .url({ protocol: /^https?$/ })
      .refine((url) => !/^[^/?#]*\/\/[^/?#]*@/.test(url), 'give user and password as options, not in the URL')
      .refine((url) => /^[^/?#]*\/\/[^/?#]*\/?$/.test(url), 'give scheme, host and port alone, without a path')
      .describe('where the coordinator listens: `https://host:8443`, no path'),
    user: headerText().describe('the name to log in with, and the statements run under'),
    password: secret().optional().describe('for basic authentication, over https or to a loopback address'),
    token: secret().optional().describe('a JWT or OAuth2 access token, over https or to a loopback address'),
    sessionUser: headerText().optional().describe('the name the statements run under, where it is another; `user` by default'),
    roles: z
      .record(headerName(), z.string().min(1))
      .default({})
      .describe('the role in each catalog, `system` for the whole server; also `ALL` and `NONE`'),
    extraCredentials: z
      .record(headerName(), secret())
      .default({})
      .describe('for the connectors that ask for them by name (secret)'),
    catalog: headerText().optional().describe('catalog of names that do not spell theirs; none by default'),
    schema: headerText().optional().describe('schema of such names, with a `catalog`; none by default'),
    path: headerText().optional().describe("where functions are looked for: `lake.functions`; the server's by default"),
    sessionProperties: z
      .record(z.string().regex(/^[A-Za-z_][\w.$-]*$/), z.string())
      .default({})
      .describe("`{ query_max_run_time: '10m' }`, a catalog's as `catalog.name`"),
    timeZone: headerText().default('UTC').describe('time zone of the session, an IANA name'),
    source: headerText().default('common-handlers').describe('what resource groups and the web interface see'),
    clientTags: z
      .array(headerText().refine((tag) => !tag.includes(','), 'a tag holds no comma'))
      .default([])
      .describe('tags that resource groups may select by'),
    tls: z
      .strictObject({
        caCert: pem().optional().describe("PEM text of the authorities to trust; the system's by default"),
        verify: z.boolean().default(true).describe('false accepts any certificate'),
        serverName: headerText().optional().describe('the name the certificate must have; the host of `url` by default'),
        clientCert: pem().optional().describe('PEM text of a certificate to log in with'),
        clientKey: secret().optional().describe('PEM text of its key'),
        clientKeyPassphrase: secret().optional().describe('where the key is encrypted'),
      })
      .default({ verify: true })
      .refine(
        (tls) => (tls.clientCert === undefined) === (tls.clientKey === undefined),
        'clientCert and clientKey belong together',
      ),
    timeoutMs: z.int().positive().default(3_600_000).describe('limit of one call, from the POST to the last row'),
    requestTimeoutMs: z.int().positive().default(60_000).describe('limit of the silence within one HTTP exchange'),
    connectTimeoutMs: z.int().positive().default(10_000).describe('limit of making a connection'),
    connections: z.int().positive().default(16).describe('sockets that may be open at once; each statement under way uses one'),
    parameters: z
      .enum(['immediate', 'prepared'])
      .default('immediate')
      .describe('how values are bound: by EXECUTE IMMEDIATE, or by a prepared statement as before Trino 418'),
    spooling: z
      .strictObject({
        encodings: z
          .array(z.enum(encodings))
          .default([...encodings])
          .describe('encodings of spooled results in order of preference; `[]` for direct results'),
        parallel: z
          .int()
          .positive()
          .default(1)
          .describe('segments that are fetched ahead of the reader, at once; more for a store that is far away'),
      })
      .default({ encodings: [...encodings], parallel: 1 }),
    heartbeatMs: z
      .int()
      .positive()
      .default(30_000)
      .describe('how long a reader may rest before the server is told that it is still there'),
    retry: z
      .strictObject({
        attempts: z.int().positive().default(retryDefaults.attempts).describe('tries of one exchange, the first included'),
        budgetMs: z.int().nonnegative().default(retryDefaults.budgetMs).describe('time for all tries of one exchange'),
        baseDelayMs: z.int().nonnegative().default(retryDefaults.baseDelayMs).describe('upper bound of the first wait'),
        maxDelayMs: z.int().nonnegative().default(retryDefaults.maxDelayMs).describe('upper bound of any wait'),
      })
      .default(retryDefaults),
  })
  .refine((config) => config.password === undefined || config.token === undefined, {
    error: 'give a password or a token, not both',
    path: ['token'],
  })
  .refine((config) => config.schema === undefined || config.catalog !== undefined, { error: 'needs a catalog', path: ['schema'] })
  .refine((config) => !carriesSecrets(config) || isProtected(config.url), {
    error: 'a password, token or extra credential would cross the network unencrypted: use https',
    path: ['url'],
  })

const carriesSecrets = ({ password, token, extraCredentials }: TrinoConfig): boolean =>
  password !== undefined || token !== undefined || Object.keys(extraCredentials).length > 0

/** Whether nobody can listen in: over https, or within this machine. */
export function isProtected(url: string): boolean {
  if (!URL.canParse(url)) return true
  const { protocol, hostname } = new URL(url)
  return protocol === 'https:' || LOOPBACK.test(hostname)
}

/** @throws ConfigError `TRINO_CONFIG_INVALID` */
export function parseConfig(input: TrinoConfigInput): TrinoConfig {
  const parsed = trinoConfigSchema.safeParse(input)
  if (parsed.success) return parsed.data
  const problems = parsed.error.issues.map((issue) => `${issue.path.join('.') || '(top)'}: ${issue.message}`)
  throw new ConfigError(`the options of TrinoHandler cannot be used: ${problems.join('; ')}`, {
    code: 'TRINO_CONFIG_INVALID',
    context: { problems },
  })
}
