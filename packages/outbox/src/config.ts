import { ConfigError, issuePath } from '@common-handlers/core'
import { z } from 'zod'

/** Settings of a worker; times in milliseconds. */
export interface WorkerConfigInput {
  readonly schema?: string | undefined
  readonly name?: string | undefined
  readonly batchSize?: number | undefined
  readonly pollInterval?: number | undefined
  readonly maxParallel?: number | undefined
  readonly txConnections?: number | undefined
  readonly useConnectionPool?: boolean | undefined
  readonly poolMinConnections?: number | undefined
  readonly poolMaxConnections?: number | undefined
  readonly connectTimeoutMs?: number | undefined
  readonly queryTimeoutMs?: number | undefined
  readonly holdWarningMs?: number | undefined
  readonly maxAttempts?: number | undefined
  readonly maxCrashes?: number | undefined
  readonly backoffBaseMs?: number | undefined
  readonly backoffMaxMs?: number | undefined
  readonly maintenanceMs?: number | undefined
  readonly logRetentionMs?: number | undefined
}

export interface WorkerConfig {
  readonly schema: string
  readonly name: string
  readonly batchSize: number
  readonly pollInterval: number
  readonly maxParallel: number
  readonly txConnections: number
  readonly useConnectionPool: boolean
  readonly poolMinConnections: number
  readonly poolMaxConnections: number
  readonly connectTimeoutMs: number
  readonly queryTimeoutMs: number
  readonly holdWarningMs: number
  readonly maxAttempts: number
  readonly maxCrashes: number
  readonly backoffBaseMs: number
  readonly backoffMaxMs: number
  readonly maintenanceMs: number
  readonly logRetentionMs: number
}

const ms = (): z.ZodNumber => z.number().positive()
const count = (): z.ZodInt => z.int().positive()

export const workerConfigSchema: z.ZodType<WorkerConfig, WorkerConfigInput> = z
  .strictObject({
    schema: z.string().default('outbox').describe('Schema of the outbox in the database'),
    name: z.string().default('worker').describe('How this worker is called in lists and logs'),
    batchSize: count().max(10_000).default(100).describe('Events claimed in one statement, and completed in one commit, at most'),
    pollInterval: ms()
      .min(50)
      .default(1000)
      .describe('Milliseconds between looks for events when nobody notifies: the floor under notifications'),
    maxParallel: count().max(10_000).default(10).describe('Handlers with the effect `lease` that run at a time'),
    txConnections: count()
      .max(100)
      .default(2)
      .describe('Transactions of handlers with the effect `tx` at a time; the handlers of one run one after the other'),
    useConnectionPool: z
      .boolean()
      .default(true)
      .describe('Handlers that need the database take connections of the pool, unless they say otherwise'),
    poolMinConnections: z.int().nonnegative().default(0).describe('Connections of the pool that are opened at the start'),
    poolMaxConnections: count()
      .optional()
      .describe('Connections of the pool that handlers hold at a time, not above maxParallel; maxParallel by default'),
    connectTimeoutMs: ms().default(5000).describe('Time to get a connection'),
    queryTimeoutMs: ms().default(10_000).describe('Time of one statement of a handler, unless it says otherwise'),
    holdWarningMs: ms().default(10_000).describe('A handler that holds a connection of the pool for longer is reported'),
    maxAttempts: count().max(32_767).default(10).describe('Attempts before an event becomes a dead letter'),
    maxCrashes: count()
      .max(100)
      .default(3)
      .describe('Deaths of its worker, while it ran alone, before an event becomes a dead letter'),
    backoffBaseMs: ms().default(1000).describe('Upper bound of the wait before the second attempt; it doubles, with full jitter'),
    backoffMaxMs: ms().default(600_000).describe('The longest wait between attempts'),
    maintenanceMs: ms()
      .min(100)
      .default(60_000)
      .describe('One of the workers so often deletes what is out of date, and looks for what keeps PostgreSQL from vacuuming'),
    logRetentionMs: ms()
      .default(86_400_000)
      .describe('What every consumer of the log has read stays there so long, for consumers that are new'),
  })
  .transform(({ poolMaxConnections, ...config }) => ({ ...config, poolMaxConnections: poolMaxConnections ?? config.maxParallel }))
  .refine(({ poolMaxConnections, maxParallel }) => poolMaxConnections <= maxParallel, {
    path: ['poolMaxConnections'],
    message: 'more than maxParallel: handlers could never use them',
  })
  .refine(({ poolMinConnections, poolMaxConnections }) => poolMinConnections <= poolMaxConnections, {
    path: ['poolMinConnections'],
    message: 'more than poolMaxConnections',
  })

/** @throws ConfigError `OUTBOX_CONFIG_INVALID`, which names each key */
export function readWorkerConfig(input: WorkerConfigInput): WorkerConfig {
  const result = workerConfigSchema.safeParse(input)
  if (result.success) return result.data
  const issues = result.error.issues.map((issue) => `${issuePath(issue)}: ${issue.message}`)
  throw new ConfigError(`the worker cannot be configured: ${issues.join('; ')}`, { code: 'OUTBOX_CONFIG_INVALID' })
}
