import { ConfigError } from '@common-handlers/core'
import { z } from 'zod'

/** What a caller writes. Only `path` is required. */
export interface DuckDbConfigInput {
  /** The file of the database, made when it is not there; `:memory:` for one that ends with the handler. */
  readonly path: string
  /** True to open the file for reading: any number of processes may do so at once, while none writes. Default false. */
  readonly readOnly?: boolean | undefined
  /** `512MB`, `2GiB`. What does not fit is written to the temporary folder. Default: DuckDB's own, 80 % of the machine's memory. */
  readonly memoryLimit?: string | undefined
  /** Default: one for each core. */
  readonly threads?: number | undefined
  /** Where work that does not fit into memory is written. Default: `<path>.tmp` beside the file. */
  readonly tempDirectory?: string | undefined
  /** Upper bound of the temporary folder: `10GB`. Default: DuckDB's own, 90 % of the free disk. */
  readonly maxTempDirectorySize?: string | undefined
  /** Limit of one call in milliseconds. Default: none. */
  readonly timeoutMs?: number | undefined
}

/** The configuration after parsing. */
export interface DuckDbConfig extends DuckDbConfigInput {
  readonly readOnly: boolean
}

const size = (): z.ZodType<string, string> =>
  z.string().regex(/^\d+(\.\d+)?\s?([KMGT]i?B)$/i, 'expected a size such as 512MB or 2GiB')

/** One strict schema for all options but the logger. Apps embed it in their own. */
export const duckDbConfigSchema: z.ZodType<DuckDbConfig, DuckDbConfigInput> = z.strictObject({
  path: z.string().min(1).describe('the file of the database, made when it is not there, or `:memory:`'),
  readOnly: z
    .boolean()
    .default(false)
    .describe('open the file for reading only; any number of processes may read while none writes'),
  memoryLimit: size().optional().describe('memory the database may use, such as `512MB`; 80 % of the machine by default'),
  threads: z.int().positive().optional().describe('threads the database may use; one for each core by default'),
  tempDirectory: z
    .string()
    .min(1)
    .optional()
    .describe('where work that does not fit into memory is written; `<path>.tmp` by default'),
  maxTempDirectorySize: size()
    .optional()
    .describe('upper bound of the temporary folder, such as `10GB`; 90 % of the free disk by default'),
  timeoutMs: z.int().positive().optional().describe('limit of one call in milliseconds; none by default'),
})

/** @throws ConfigError `DUCKDB_CONFIG_INVALID` */
export function parseConfig(input: DuckDbConfigInput): DuckDbConfig {
  const parsed = duckDbConfigSchema.safeParse(input)
  if (parsed.success) return parsed.data
  const problems = parsed.error.issues.map((issue) => `${issue.path.map(String).join('.') || '(top)'}: ${issue.message}`)
  throw new ConfigError(`the options of DuckDbHandler cannot be used:\n${problems.map((line) => `  ${line}`).join('\n')}`, {
    code: 'DUCKDB_CONFIG_INVALID',
    context: { problems },
  })
}

/** The settings of the database. Extensions are never fetched from the network: what is needed is built in. */
export function databaseOptions(config: DuckDbConfig): Record<string, string> {
  return {
    access_mode: config.readOnly ? 'READ_ONLY' : 'AUTOMATIC',
    autoinstall_known_extensions: 'false',
    autoload_known_extensions: 'false',
    ...(config.memoryLimit === undefined ? {} : { memory_limit: config.memoryLimit }),
    ...(config.threads === undefined ? {} : { threads: String(config.threads) }),
    ...(config.tempDirectory === undefined ? {} : { temp_directory: config.tempDirectory }),
    ...(config.maxTempDirectorySize === undefined ? {} : { max_temp_directory_size: config.maxTempDirectorySize }),
  }
}
