import { type Secret, secret } from '@common-handlers/core'
import { z } from 'zod'
import { isTrusted, readCredentials } from './credentials.ts'

/** What a caller writes. `spreadsheetId` and `credentials` are required. */
export interface GsheetsConfigInput {
  /** The part of its address after `/spreadsheets/d/`. */
  readonly spreadsheetId: string
  /** The JSON text of a service account's key file: `file:/run/secrets/key.json`. */
  readonly credentials: string | Secret
  /** Where the API is. Default `https://sheets.googleapis.com`. */
  readonly apiUrl?: string | undefined
  /** Rows asked for at a time. Default 5 000. */
  readonly pageRows?: number | undefined
  /** Certificates to trust instead of those that Node knows, as PEM. */
  readonly ca?: string | undefined
  /** Limit of one try in milliseconds. Default 30 000. */
  readonly timeoutMs?: number | undefined
  /** Tries in all. Default 10. */
  readonly attempts?: number | undefined
  /** Time for all tries and waits together, in milliseconds. Default 180 000: a quota is filled again each minute. */
  readonly retryBudgetMs?: number | undefined
}

/** The configuration after parsing. */
export interface GsheetsConfig extends GsheetsConfigInput {
  readonly credentials: Secret
  readonly apiUrl: string
  readonly pageRows: number
  readonly timeoutMs: number
  readonly attempts: number
  readonly retryBudgetMs: number
}

/** One strict schema for all options. */
export const gsheetsConfigSchema: z.ZodType<GsheetsConfig, GsheetsConfigInput> = z.strictObject({
  spreadsheetId: z
    .string()
    .regex(/^[\w-]+$/, 'expected the part of its address after /spreadsheets/d/')
    .describe('which spreadsheet: the part of its address after `/spreadsheets/d/`'),
  credentials: secret()
    .superRefine((given, context) => {
      try {
        readCredentials(given.expose())
      } catch (error) {
        context.addIssue({ code: 'custom', message: (error as Error).message })
      }
    })
    .meta({ secret: true, type: 'string', description: "JSON text of a service account's key file" }),
  apiUrl: z
    .string()
    .refine(isTrusted, 'expected https://, or http:// on this machine')
    .default('https://sheets.googleapis.com')
    .describe('where the API is'),
  pageRows: z.int().min(1).max(100_000).default(5_000).describe('rows asked for at a time'),
  ca: z.string().min(1).optional().describe('PEM of the certificates to trust; those of Node by default'),
  timeoutMs: z.int().positive().default(30_000).describe('limit of one try in milliseconds'),
  attempts: z.int().positive().default(10).describe('tries in all'),
  retryBudgetMs: z
    .int()
    .positive()
    .default(180_000)
    .describe('time for all tries and waits together, in milliseconds: a quota is filled again each minute'),
})
