export { checkHistory, type HistoryOptions, type HistoryRecord, type Violation } from './history.ts'
export { advance, enqueued, type EnqueuedEvent, type EnqueuedFilter } from './waiting-events.ts'
export { type RunOptions, type RunResult, runUntilEmpty } from './run-until-empty.ts'
