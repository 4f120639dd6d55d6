import { HandlerError, type Outcome } from '@common-handlers/core'
import { exitCodes, Interrupted } from './exit-code.ts'

const byOutcome: Readonly<Record<Outcome, number>> = {
  config: exitCodes.usage,
  auth: exitCodes.denied,
  permission: exitCodes.denied,
  'not-found': exitCodes.notFound,
  connection: exitCodes.unavailable,
  timeout: exitCodes.unavailable,
  remote: exitCodes.failed,
  capacity: exitCodes.capacity,
  data: exitCodes.data,
  conflict: exitCodes.conflict,
}

/** What a program ends with after this error. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof Interrupted) return error.exitCode
  if (!HandlerError.is(error)) return exitCodes.failed
  // A secret that is missing or refused is what it is, wherever its reference stands.
  if (error.code === 'CONFIG_REFERENCE_UNRESOLVED' && HandlerError.is(error.cause)) return exitCodeOf(error.cause)
  return byOutcome[error.outcome]
}
