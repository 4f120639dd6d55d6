export {
  type App,
  type AppCommand,
  type AppOption,
  type AppResolvers,
  type CommandContext,
  runApp,
  type Terminal,
} from './app.ts'
export { exitCodeOf, exitCodes, Interrupted } from './exit-code.ts'
export { formatBytes, formatCount, formatDuration, formatTable, parseDuration } from './format.ts'
export { createLogger, type LogLevel, logLevels } from './log.ts'
export { main } from './main.ts'
export { openReferences, type ReferenceVault } from './references.ts'
export { createProgress, type Progress, progressLine, type ProgressState } from './progress.ts'
