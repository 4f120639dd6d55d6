export {
  type BlockedKey,
  type Changed,
  type ChangeOptions,
  type DeadLetterChoice,
  type EventDetails,
  type EventState,
  type EventSummary,
  type ListOptions,
  OutboxAdmin,
  type OutboxAdminOptions,
  type OutboxPolicy,
  type Redriven,
} from './admin.ts'
export { type WorkerConfig, type WorkerConfigInput, workerConfigSchema } from './config.ts'
export {
  type EnqueueInto,
  type EnqueueOptions,
  type EventSchemas,
  type LogEvent,
  type NewEvent,
  Outbox,
  type OutboxOptions,
} from './enqueue.ts'
export {
  type AnyHandler,
  type DatabaseContext,
  type DatabaseHandlerDefinition,
  deadLetter,
  discard,
  type Effect,
  type HandlerContext,
  type HandlerDefinition,
  type HandlerResult,
  type Handlers,
  type HandlerSettings,
  type PlainHandlerDefinition,
  type ReceivedEvent,
  retryAfter,
  type Verdict,
} from './handler.ts'
export { Inbox, type InboxOptions, type Processed } from './inbox.ts'
export { type LogProgress, logProgress } from './log-progress.ts'
export type { Bloat } from './maintenance.ts'
export { OutboxMetrics, type OutboxMetricsOptions } from './metrics.ts'
export { migrate, type MigrateOptions, type MigrateResult } from './migrate.ts'
export type { PendingEvent } from './pending.ts'
export type { ConnectionPool, PoolClient, PoolQuery, PoolResult } from './pool.ts'
export { OutboxRepository, type OutboxRepositoryOptions, type RepositoryConnection } from './repository.ts'
export type { Horizon, OutboxStats, TableStats, TypeStats, Watched, WorkerStats } from './stats.ts'
export type { SpanContextLike, SpanLike, SpanOptionsLike, TracerLike } from './tracing.ts'
export { type Supervisable, supervised, type SupervisedOptions } from './supervised.ts'
export {
  type EndReason,
  OutboxSupervisor,
  type OutboxSupervisorEvents,
  type OutboxSupervisorOptions,
  type SupervisedStatus,
} from './supervisor.ts'
export { type Companion, OutboxWorker, type OutboxWorkerEvents, type OutboxWorkerOptions, type WorkerStatus } from './worker.ts'
