import type { CallOptions } from '@common-handlers/core'
import type { SessionOptions, SessionState } from './session-state.ts'
import { type StatementRunner, Statements } from './statements.ts'

export interface TransactionOptions extends CallOptions {
  readonly isolation?: 'read uncommitted' | 'read committed' | 'repeatable read' | 'serializable' | undefined
  readonly readOnly?: boolean | undefined
  /** What the session of the transaction is beside the options of the handler. */
  readonly session?: SessionOptions | undefined
}

/**
 * Statements that share a session: what USE, SET SESSION, SET ROLE, SET PATH, SET SESSION AUTHORIZATION, PREPARE and
 * START TRANSACTION change holds for the statements that begin after it. It lives here and not on the server, and needs
 * no closing; statements that run side by side each have the session as it was when they began.
 */
export class TrinoSession extends Statements {
  protected readonly runner: StatementRunner
  readonly #state: SessionState

  constructor(state: SessionState, runner: StatementRunner) {
    super()
    this.#state = state
    this.runner = runner
  }

  get catalog(): string | undefined {
    return this.#state.catalog
  }
  get schema(): string | undefined {
    return this.#state.schema
  }
  get path(): string | undefined {
    return this.#state.path
  }
  /** Of this session alone; the server has its defaults for the others. */
  get sessionProperties(): Readonly<Record<string, string>> {
    return Object.fromEntries(this.#state.properties)
  }
  /** `{ system: 'ROLE{admin}' }`, as the protocol spells them. */
  get roles(): Readonly<Record<string, string>> {
    return Object.fromEntries(this.#state.roles)
  }
  /** The text of each prepared statement by its name. */
  get preparedStatements(): Readonly<Record<string, string>> {
    return Object.fromEntries(this.#state.prepared)
  }
  /** The user of `SET SESSION AUTHORIZATION`. */
  get authorizationUser(): string | undefined {
    return this.#state.authorizationUser
  }
  /** While a transaction is open. */
  get transactionId(): string | undefined {
    return this.#state.transactionId
  }
}

/** Runs work in a transaction of its own session: committed when it ends, rolled back when it throws. */
export async function inTransaction<T>(
  session: TrinoSession,
  work: (transaction: TrinoSession) => Promise<T>,
  { isolation, readOnly, signal, timeoutMs }: TransactionOptions,
): Promise<T> {
  const call: CallOptions = { signal, timeoutMs }
  const modes = [
    ...(isolation === undefined ? [] : [`ISOLATION LEVEL ${isolation.toUpperCase()}`]),
    ...(readOnly === undefined ? [] : [readOnly ? 'READ ONLY' : 'READ WRITE']),
  ]
  try {
    await session.execute(`START TRANSACTION ${modes.join(', ')}`, [], call)
    const result = await work(session)
    await session.execute('COMMIT', [], call)
    return result
  } catch (error) {
    // Not under the signal of the caller, who may have aborted. What cannot be rolled back ends by itself, unseen and idle.
    if (session.transactionId !== undefined)
      await session.execute('ROLLBACK', [], { timeoutMs: ROLLBACK_MS }).catch(() => undefined)
    throw error
  }
}

const ROLLBACK_MS = 10_000
