import { type Secret, secret } from '@common-handlers/core'
import { z } from 'zod'

/** How the user is told to the service: in a header of HTTP, or in one of SOAP as a text or as a digest. */
export type SoapLogin = 'basic' | 'ws-security-text' | 'ws-security-digest'

/** What a caller writes. Only `wsdlUrl` is required. */
export interface SoapConfigInput {
  /** Where the description of the service is: a URL, or a file on this machine. */
  readonly wsdlUrl: string
  /** Where the service is, when it is not where its description says. */
  readonly endpoint?: string | undefined
  readonly username?: string | undefined
  readonly password?: string | Secret | undefined
  /** Default `basic`. */
  readonly login?: SoapLogin | undefined
  /** Certificates to trust instead of those that Node knows, as PEM. */
  readonly ca?: string | undefined
  /** Limit of one try in milliseconds. Default 30 000. */
  readonly timeoutMs?: number | undefined
  /** Tries in all of what may be repeated. Default 3. */
  readonly attempts?: number | undefined
  /** Time for all tries and waits together, in milliseconds. Default 60 000. */
  readonly retryBudgetMs?: number | undefined
  /** The largest answer that is read. Default 64 MiB. */
  readonly maxBodyBytes?: number | undefined
}

/** The configuration after parsing. */
export interface SoapConfig extends SoapConfigInput {
  readonly password?: Secret | undefined
  readonly login: SoapLogin
  readonly timeoutMs: number
  readonly attempts: number
  readonly retryBudgetMs: number
  readonly maxBodyBytes: number
}

const MIB = 1024 * 1024

function isAddress(text: string): boolean {
  const url = URL.canParse(text) ? new URL(text) : undefined
  return url !== undefined && /^https?:$/.test(url.protocol) && `${url.username}${url.password}` === ''
}

/** One strict schema for all options. */
export const soapConfigSchema: z.ZodType<SoapConfig, SoapConfigInput> = z
  .strictObject({
    wsdlUrl: z
      .string()
      .min(1)
      .refine(
        (text) => !text.includes('://') || isAddress(text),
        'expected http:// or https:// without user and password, or the path of a file',
      )
      .describe('description of the service: a URL such as `https://example.com/orders?wsdl`, or a file'),
    endpoint: z
      .string()
      .refine(isAddress, 'expected http:// or https:// without user and password')
      .optional()
      .describe('where the service is; where its description says by default'),
    username: z.string().min(1).optional().describe('who logs in; none by default'),
    password: secret().optional().describe('of the user; none by default'),
    login: z
      .enum(['basic', 'ws-security-text', 'ws-security-digest'])
      .default('basic')
      .describe('how the user is told: basic authentication, also for the description, or a username token of WS-Security'),
    ca: z.string().min(1).optional().describe('PEM of the certificates to trust; those of Node by default'),
    timeoutMs: z.int().positive().default(30_000).describe('limit of one try in milliseconds'),
    attempts: z.int().positive().default(3).describe('tries in all of what may be repeated'),
    retryBudgetMs: z.int().positive().default(60_000).describe('time for all tries and waits together, in milliseconds'),
    maxBodyBytes: z
      .int()
      .positive()
      .default(64 * MIB)
      .describe('largest answer that is read'),
  })
  .refine(({ username, password }) => (username === undefined) === (password === undefined), {
    error: 'needed together with username, password',
    path: ['password'],
  })
