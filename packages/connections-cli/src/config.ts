import { z } from 'zod'

export interface ConnectionsCliConfig {
  readonly file?: string | undefined
  readonly timeoutMs: number
  readonly parallel: number
}

export interface ConnectionsCliConfigInput {
  readonly file?: string | undefined
  readonly timeoutMs?: number | undefined
  readonly parallel?: number | undefined
}

/** One strict schema for file, environment (`CONNECTIONS_*`) and `--set`. */
export const connectionsCliConfigSchema: z.ZodType<ConnectionsCliConfig, ConnectionsCliConfigInput> = z.strictObject({
  file: z
    .string()
    .min(1)
    .optional()
    .describe('file of the connections; connections.yaml, .yml or .json where it is there by default'),
  timeoutMs: z.int().positive().default(30_000).describe('limit of the test of one connection in milliseconds'),
  parallel: z.int().min(1).max(100).default(8).describe('how many connections `doctor` tries at a time'),
})

/** The variables that connections are configured by: `PG_HOST` and the like. */
export const environment = (): Readonly<Record<string, string | undefined>> => process.env
