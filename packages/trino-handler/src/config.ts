import { ConfigError, defaultRetryPolicy, type Logger, type RetryPolicy, secret, type Secret } from '@common-handlers/core'
import { z } from 'zod'

/** How the server's certificate is checked. */
export interface TlsOptions {
  /** PEM text of the authorities to trust in place of the system's own. */
  readonly caCert?: string | undefined
  /** False accepts any certificate. Default true. */
  readonly verify?: boolean | undefined
}

/** What a caller writes. Only `url` and `user` are required. */
export interface TrinoConfigInput {
  /** `https://trino.example.com:8443`, without a path, user or password. */
  readonly url: string
  /** The name the statements run under (`X-Trino-User`). */
  readonly user: string
  /** For basic authentication. Sent over https, or to a loopback address. */
  readonly password?: string | Secret | undefined
  /** A JWT, sent as a bearer token. Sent over https, or to a loopback address. */
  readonly token?: string | Secret | undefined
  /** Catalog of names that do not spell theirs. */
  readonly catalog?: string | undefined
  /** Schema of names that do not spell theirs; needs `catalog`. */
  readonly schema?: string | undefined
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
  /** Tries and time for one exchange that may be repeated. Default 10 tries in 60 s. */
  readonly retry?: { readonly [Key in keyof RetryPolicy]?: RetryPolicy[Key] | undefined } | undefined
}

/** The configuration after parsing: defaults filled in, secrets wrapped. */
export interface TrinoConfig {
  readonly url: string
  readonly user: string
  readonly password?: Secret | undefined
  readonly token?: Secret | undefined
  readonly catalog?: string | undefined
  readonly schema?: string | undefined
  readonly sessionProperties: Readonly<Record<string, string>>
  readonly timeZone: string
  readonly source: string
  readonly clientTags: readonly string[]
  readonly tls: { readonly caCert?: string | undefined; readonly verify: boolean }
  readonly timeoutMs: number
  readonly requestTimeoutMs: number
  readonly connectTimeoutMs: number
  readonly connections: number
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

/** Strict: an unknown key is an error. */
export const trinoConfigSchema: z.ZodType<TrinoConfig, TrinoConfigInput> = z
  .strictObject({
    url: z
      .url({ protocol: /^https?$/ })
      .refine((url) => !URL.canParse(url) || new URL(url).username === '', 'give user and password as options, not in the URL')
      .refine((url) => !URL.canParse(url) || new URL(url).pathname === '/', 'give scheme, host and port alone, without a path')
      .describe('Where the coordinator listens: `https://host:8443`'),
    user: headerText().describe('The name the statements run under'),
    password: secret().optional().describe('For basic authentication, over https or to a loopback address'),
    token: secret().optional().describe('A JWT, sent as a bearer token, over https or to a loopback address'),
    catalog: headerText().optional().describe('Catalog of names that do not spell theirs'),
    schema: headerText().optional().describe('Schema of names that do not spell theirs; needs `catalog`'),
    sessionProperties: z
      .record(z.string().regex(/^[A-Za-z_][\w.$-]*$/), z.string())
      .default({})
      .describe('Session properties, those of a catalog as `catalog.name`'),
    timeZone: headerText().default('UTC').describe('Time zone of the session, an IANA name'),
    source: headerText().default('common-handlers').describe('Shown by the server as the source of the statements'),
    clientTags: z
      .array(headerText().refine((tag) => !tag.includes(','), 'a tag holds no comma'))
      .default([])
      .describe('Tags that resource groups may select by'),
    tls: z
      .strictObject({
        caCert: z.string().min(1).optional().describe('PEM text of the authorities to trust'),
        verify: z.boolean().default(true).describe('False accepts any certificate'),
      })
      .default({ verify: true }),
    timeoutMs: z.int().positive().default(3_600_000).describe('Limit of one call, from the POST to the last row'),
    requestTimeoutMs: z.int().positive().default(60_000).describe('Limit of the silence within one HTTP exchange'),
    connectTimeoutMs: z.int().positive().default(10_000).describe('Limit of making a connection'),
    connections: z.int().positive().default(16).describe('Sockets that may be open at once'),
    retry: z
      .strictObject({
        attempts: z.int().positive().default(retryDefaults.attempts).describe('Tries of one exchange, the first included'),
        budgetMs: z.int().nonnegative().default(retryDefaults.budgetMs).describe('Time for all tries of one exchange'),
        baseDelayMs: z.int().nonnegative().default(retryDefaults.baseDelayMs).describe('Upper bound of the first wait'),
        maxDelayMs: z.int().nonnegative().default(retryDefaults.maxDelayMs).describe('Upper bound of any wait'),
      })
      .default(retryDefaults),
  })
  .refine((config) => config.password === undefined || config.token === undefined, {
    error: 'give a password or a token, not both',
    path: ['token'],
  })
  .refine((config) => config.schema === undefined || config.catalog !== undefined, { error: 'needs a catalog', path: ['schema'] })
  .refine(
    (config) =>
      (config.password === undefined && config.token === undefined) ||
      !URL.canParse(config.url) ||
      new URL(config.url).protocol === 'https:' ||
      LOOPBACK.test(new URL(config.url).hostname),
    { error: 'a password or token would cross the network unencrypted: use https', path: ['url'] },
  )

/** What the constructor takes: the configuration and where to log. */
export interface TrinoOptions extends TrinoConfigInput {
  /** Silent by default. */
  readonly logger?: Logger | undefined
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
