import { z } from 'zod'

/** What a caller writes. Only `databasePath` is required. */
export interface SqliteConfigInput {
  /** The file of the database, or `:memory:`. */
  readonly databasePath: string
  /** True to make the file where there is none. Default false: a path with a mistake in it is an error and no empty database. */
  readonly create?: boolean | undefined
  /** True to open the file for reading only. Default false. */
  readonly readOnly?: boolean | undefined
  /** How long to try again while another process holds the lock, in milliseconds. Default 5 000. */
  readonly busyTimeoutMs?: number | undefined
}

/** The configuration after parsing. */
export interface SqliteConfig extends SqliteConfigInput {
  readonly create: boolean
  readonly readOnly: boolean
  readonly busyTimeoutMs: number
}

/** One strict schema for all options. */
export const sqliteConfigSchema: z.ZodType<SqliteConfig, SqliteConfigInput> = z
  .strictObject({
    databasePath: z.string().min(1).describe('the file of the database, or `:memory:`'),
    create: z.boolean().default(false).describe('make the file where there is none'),
    readOnly: z.boolean().default(false).describe('open the file for reading only'),
    busyTimeoutMs: z
      .int()
      .nonnegative()
      .default(5_000)
      .describe('how long to try again while another process holds the lock, in milliseconds'),
  })
  .refine(({ create, readOnly }) => !(create && readOnly), { error: 'a file that is read only is not made', path: ['create'] })
