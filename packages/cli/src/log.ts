import { type Logger, scrub } from '@common-handlers/core'
import { type DestinationStream, pino } from 'pino'
import type { LogLevel } from './app.ts'

/** JSON lines for machines, one short line for a person; known secrets are struck out of both. */
export function createLogger(options: {
  readonly name: string
  readonly level: LogLevel
  readonly human: boolean
  readonly write: (line: string) => void
}): Logger {
  const destination: DestinationStream = {
    write: (line) => options.write(scrub(options.human ? humanLine(line) : line)),
  }
  return pino(
    {
      level: options.level,
      base: options.human ? {} : { app: options.name },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      messageKey: 'message',
      errorKey: 'error',
      serializers: { error: (error: unknown) => (hasToJson(error) ? error.toJSON() : pino.stdSerializers.err(error as Error)) },
    },
    destination,
  )
}

const hasToJson = (value: unknown): value is { toJSON(): unknown } =>
  typeof value === 'object' && value !== null && typeof (value as { toJSON?: unknown }).toJSON === 'function'

function humanLine(line: string): string {
  const { level, time, message, error, ...facts } = JSON.parse(line) as Record<string, unknown>
  const said = message === undefined ? [] : [message as string]
  const shown = Object.entries(facts).map(([key, value]) => `${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
  const failure = error === undefined ? [] : [(error as { message?: string }).message ?? JSON.stringify(error)]
  return `${String(time).slice(11, 19)} ${String(level).padEnd(5)} ${[...said, ...failure, ...shown].join('  ')}\n`
}
