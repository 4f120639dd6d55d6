export {
  type App,
  type AppArgument,
  type AppCommand,
  type AppOption,
  type AppResolvers,
  type CommandContext,
  type LogLevel,
  logLevels,
  runApp,
  type Terminal,
} from './app.ts'
export { exitCodes, Interrupted } from './exit-code.ts'
export { exitCodeOf } from './exit-code-of.ts'
export { formatBytes, formatCount, formatDuration, formatTable, parseDuration } from './format.ts'
export { createLogger } from './log.ts'
export { openReferences, type ReferenceVault } from './references.ts'
export { createProgress, type Progress, progressLine, type ProgressState } from './progress.ts'
