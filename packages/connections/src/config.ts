import { type Secret, secret } from '@common-handlers/core'
import { z } from 'zod'

/** The variables of the process. */
export const environment = (): Readonly<Record<string, string | undefined>> => process.env

/** What a caller writes for `http`. Only `baseUrl` is required; at most one way to log in. */
export interface HttpConfigInput {
  /** What paths are added to: `https://api.example.com/v2`. */
  readonly baseUrl: string
  /** A bearer token. */
  readonly token?: string | Secret | undefined
  /** Basic authentication, with `password`. */
  readonly username?: string | undefined
  readonly password?: string | Secret | undefined
  /** Sent in `apiKeyHeader`. */
  readonly apiKey?: string | Secret | undefined
  /** Default `x-api-key`. */
  readonly apiKeyHeader?: string | undefined
  /** Where OAuth 2 client credentials are exchanged for a token (RFC 6749 section 4.4), with `clientId` and `clientSecret`. */
  readonly tokenUrl?: string | undefined
  readonly clientId?: string | undefined
  readonly clientSecret?: string | Secret | undefined
  readonly scope?: string | undefined
  /** Sent with each request to the host of `baseUrl`. */
  readonly headers?: Readonly<Record<string, string>> | undefined
  /** Certificates to trust instead of those that Node knows, as PEM. */
  readonly ca?: string | undefined
  /** The HTTP or HTTPS proxy that all requests go through; `environment` for HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the process. */
  readonly proxyUrl?: string | undefined
  /** Basic authentication at the proxy, with `proxyPassword`. */
  readonly proxyUsername?: string | undefined
  readonly proxyPassword?: string | Secret | undefined
  /** Asked for by the test; any answer but a refusal of the login will do without it. */
  readonly healthPath?: string | undefined
  readonly requestsPerSecond?: number | undefined
  /** Limit of one try in milliseconds. Default 30 000. */
  readonly timeoutMs?: number | undefined
  /** Tries in all. Default 5. */
  readonly attempts?: number | undefined
  /** Time for all tries and waits together, in milliseconds. Default 60 000. */
  readonly retryBudgetMs?: number | undefined
  /** The largest body that is read. Default 64 MiB. */
  readonly maxBodyBytes?: number | undefined
}

/** The configuration of `http` after parsing. */
export interface HttpConfig extends HttpConfigInput {
  readonly token?: Secret | undefined
  readonly password?: Secret | undefined
  readonly apiKey?: Secret | undefined
  readonly apiKeyHeader: string
  readonly clientSecret?: Secret | undefined
  readonly proxyPassword?: Secret | undefined
  readonly headers: Readonly<Record<string, string>>
  readonly timeoutMs: number
  readonly attempts: number
  readonly retryBudgetMs: number
  readonly maxBodyBytes: number
}

const address = (): z.ZodType<string, string> =>
  z.string().refine((text) => {
    const url = URL.canParse(text) ? new URL(text) : undefined
    return url !== undefined && /^https?:$/.test(url.protocol) && `${url.username}${url.password}${url.search}${url.hash}` === ''
  }, 'expected http:// or https:// with a host, without user, password, query or fragment')

const MIB = 1024 * 1024

export const httpConfigSchema: z.ZodType<HttpConfig, HttpConfigInput> = z
  .strictObject({
    baseUrl: address().describe('what paths are added to, such as `https://api.example.com/v2`'),
    token: secret().optional().describe('bearer token; none by default'),
    username: z.string().min(1).optional().describe('basic authentication, with `password`; none by default'),
    password: secret().optional().describe('of basic authentication; none by default'),
    apiKey: secret().optional().describe('key sent in `apiKeyHeader`; none by default'),
    apiKeyHeader: z.string().min(1).default('x-api-key').describe('header that holds `apiKey`'),
    tokenUrl: address().optional().describe('where OAuth 2 client credentials are exchanged for a token; none by default'),
    clientId: z.string().min(1).optional().describe('of OAuth 2; none by default'),
    clientSecret: secret().optional().describe('of OAuth 2; none by default'),
    scope: z.string().min(1).optional().describe('of OAuth 2; none by default'),
    headers: z.record(z.string(), z.string()).default({}).describe('sent with each request to the host of `baseUrl`'),
    ca: z.string().min(1).optional().describe('PEM of the certificates to trust; those of Node by default'),
    proxyUrl: z
      .union([z.literal('environment'), address()])
      .optional()
      .describe('proxy of all requests; `environment` takes that of HTTP_PROXY, HTTPS_PROXY and NO_PROXY; none by default'),
    proxyUsername: z.string().min(1).optional().describe('of basic authentication at `proxyUrl`; none by default'),
    proxyPassword: secret().optional().describe('of basic authentication at `proxyUrl`; none by default'),
    healthPath: z.string().optional().describe('path that the test asks for; `baseUrl` itself by default'),
    requestsPerSecond: z.number().positive().optional().describe('upper bound of requests begun in a second; none by default'),
    timeoutMs: z.int().positive().default(30_000).describe('limit of one try in milliseconds'),
    attempts: z.int().positive().default(5).describe('tries in all'),
    retryBudgetMs: z.int().positive().default(60_000).describe('time for all tries and waits together, in milliseconds'),
    maxBodyBytes: z
      .int()
      .positive()
      .default(64 * MIB)
      .describe('largest body that is read'),
  })
  .superRefine((config, context) => {
    const together = [
      ['username', 'password'],
      ['proxyUsername', 'proxyPassword'],
      ['tokenUrl', 'clientId', 'clientSecret'],
    ] as const
    for (const keys of together) {
      const missing = keys.filter((key) => config[key] === undefined)
      if (missing.length > 0 && missing.length < keys.length) {
        context.addIssue({ code: 'custom', path: [missing[0] ?? ''], message: `needed together with ${keys.join(', ')}` })
      }
    }
    if (config.proxyUsername !== undefined && (config.proxyUrl === undefined || config.proxyUrl === 'environment')) {
      context.addIssue({ code: 'custom', path: ['proxyUrl'], message: 'needed as a URL together with proxyUsername' })
    }
    const ways = (['token', 'username', 'apiKey', 'tokenUrl'] as const).filter((key) => config[key] !== undefined)
    if (ways.length > 1) context.addIssue({ code: 'custom', path: [], message: `give one of ${ways.join(', ')}` })
  })
