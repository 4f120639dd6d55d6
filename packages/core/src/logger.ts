/**
 * What a handler logs to. pino fits as it is; so does any object with these methods. The first argument holds the
 * facts, the second says what happened.
 */
export interface Logger {
  trace(facts: object, message?: string): void
  debug(facts: object, message?: string): void
  info(facts: object, message?: string): void
  warn(facts: object, message?: string): void
  error(facts: object, message?: string): void
  child(bindings: Record<string, unknown>): Logger
}

const nothing = (): void => undefined

/** The default: a library says nothing unless it was given somewhere to say it. */
export const silentLogger: Logger = {
  trace: nothing,
  debug: nothing,
  info: nothing,
  warn: nothing,
  error: nothing,
  child: () => silentLogger,
}
