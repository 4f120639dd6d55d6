import {
  AuthError,
  CapacityError,
  HandlerError,
  NotFoundError,
  OperationTimeoutError,
  PermissionError,
  RemoteError,
} from '@common-handlers/core'

/** What PostgreSQL answers to a command, as an error that ends the program with the right code. */
export function asCommandError(error: unknown): unknown {
  const answer = HandlerError.is(error) ? error.cause : error
  const state = sqlState(answer)
  if (state === undefined || !(answer instanceof Error)) return error
  const { message } = answer
  const options = { cause: answer, context: { sqlState: state } }
  if (state.startsWith('28')) return new AuthError(message, { code: 'OUTBOX_CLI_LOGIN_REFUSED', ...options })
  if (state === '3D000') return new NotFoundError(message, { code: 'OUTBOX_CLI_DATABASE_NOT_FOUND', ...options })
  if (state === '42501') return new PermissionError(message, { code: 'OUTBOX_CLI_DENIED', ...options })
  if (state === '57014' || state === '55P03')
    return new OperationTimeoutError(message, { code: 'OUTBOX_CLI_TIMEOUT', retry: 'safe', ...options })
  if (state.startsWith('53')) return new CapacityError(message, { code: 'OUTBOX_CLI_SERVER_FULL', retry: 'safe', ...options })
  return HandlerError.is(error)
    ? error
    : new RemoteError(message, { code: 'OUTBOX_CLI_STATEMENT_FAILED', serverCode: state, ...options })
}

function sqlState(error: unknown): string | undefined {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  return typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) ? code : undefined
}
