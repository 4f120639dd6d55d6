import {
  ConflictError,
  HandlerError,
  issuePath,
  OperationTimeoutError,
  retryDelay,
  type SchemaResult,
  scrub,
} from '@common-handlers/core'
import type { BoundHandler, DatabaseContext, ReceivedEvent, Verdict } from './handler.ts'
import type { PendingEvent } from './pending.ts'
import type { OutboxRepository } from './repository.ts'

/** How one attempt ended. */
export type Outcome = { readonly verdict: 'done' } | NotDone

export interface NotDone {
  readonly verdict: 'retry' | 'dead' | 'discard' | 'release'
  /** Milliseconds to the next attempt. */
  readonly delay?: number
  readonly reason?: string
  readonly error?: string
}

const DONE: Outcome = { verdict: 'done' }
const MAX_ERROR_CHARACTERS = 2000
/** A year: what is later than any date that PostgreSQL knows could not be written down. */
const MAX_DELAY_MS = 31_536_000_000

export interface Backoff {
  /** Upper bound of the first wait in milliseconds; it doubles with each attempt. Default 1000. */
  readonly baseMs: number
  /** Default 600 000. */
  readonly maxMs: number
}

/** Gives handlers their repositories and takes them back. */
export interface Repositories {
  open(handler: BoundHandler, context: RunContext): Promise<OutboxRepository>
}

/** One attempt. */
export class RunContext implements DatabaseContext {
  readonly event: ReceivedEvent
  readonly handler: BoundHandler
  /** On the clock of this process that never goes back. */
  readonly began: number
  readonly deadline: number
  readonly #repositories: Repositories
  #abort: AbortController | undefined
  #reason: unknown
  #ended = false
  #timedOut = false
  #expire: ((outcome: Outcome) => void) | undefined
  #stopped: Outcome | undefined
  #open: Set<OutboxRepository> | undefined
  #asked = false

  constructor(event: ReceivedEvent, handler: BoundHandler, repositories: Repositories) {
    this.event = event
    this.handler = handler
    this.#repositories = repositories
    this.began = performance.now()
    this.deadline = this.began + handler.timeoutMs
  }

  /** The handler has asked for a repository. */
  get asked(): boolean {
    return this.#asked
  }

  /** Not yet given back. */
  get open(): Set<OutboxRepository> {
    return (this.#open ??= new Set())
  }

  get signal(): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController()
      if (this.#reason !== undefined) this.#abort.abort(this.#reason)
    }
    return this.#abort.signal
  }

  /** It was stopped while it ran, and may go on in secret. */
  get timedOut(): boolean {
    return this.#timedOut
  }

  /** Handlers take it out of the context, so it brings the context along. */
  get getRepository(): () => Promise<OutboxRepository> {
    return () => {
      this.#asked = true
      const repository = this.#repository()
      // A handler that does not wait for it is told so by its failed attempt, not by the end of the process.
      repository.catch(() => undefined)
      return repository
    }
  }

  async #repository(): Promise<OutboxRepository> {
    this.assertRunning()
    if (!this.handler.needsDb)
      throw new ConflictError(`the handler of ${this.event.type} has no needsDb`, { code: 'OUTBOX_NO_DATABASE' })
    const repository = await this.#repositories.open(this.handler, this)
    if (this.#ended) await repository.close()
    this.assertRunning()
    return repository
  }

  assertRunning(): void {
    if (this.#ended)
      throw new ConflictError(`the handler of ${this.event.type} has ended: its repository is another's by now`, {
        code: 'OUTBOX_HANDLER_ENDED',
      })
  }

  /** Ends the attempt whether the handler listens or not. */
  stop(reason: Error, outcome: Outcome): void {
    this.#timedOut = true
    this.#reason = reason
    this.#abort?.abort(reason)
    this.#stopped ??= outcome
    this.#expire?.(outcome)
  }

  /** The time of the handler has passed. */
  timeOut(): void {
    const { type } = this.event
    const error = new OperationTimeoutError(`the handler of ${type} took longer than ${this.handler.timeoutMs} ms`, {
      code: 'OUTBOX_HANDLER_TIMEOUT',
      retry: 'if-idempotent',
    })
    this.stop(error, { verdict: 'retry', error: error.message })
  }

  /** @internal How it ends when it is stopped. */
  get stopped(): Promise<Outcome> {
    return new Promise((resolve) => {
      if (this.#stopped === undefined) this.#expire = resolve
      else resolve(this.#stopped)
    })
  }

  /** @internal What the handler forgot to close. */
  end(): OutboxRepository[] {
    this.#ended = true
    return this.#open === undefined ? [] : [...this.#open]
  }
}

/**
 * Runs the handler. Never throws or rejects; the outcome does not know yet of limits of attempts. A handler that returns no
 * promise has its outcome at once.
 */
export function runHandler(event: PendingEvent, context: RunContext): Outcome | Promise<Outcome> {
  const { handler } = context
  if (event.expired) return { verdict: 'dead', reason: 'expired', error: 'its time had passed before it was begun' }
  try {
    const payload: unknown = JSON.parse(event.payload)
    const checked = handler.schema?.['~standard'].validate(payload) ?? { value: payload }
    const running = isThenable(checked)
      ? Promise.resolve(checked).then((result) => handle(result, context))
      : handle(checked, context)
    if (isThenable(running)) return Promise.race([running, context.stopped]).catch(failed)
    return context.asked ? failed(notWaitedFor(handler.type)) : running
  } catch (error) {
    return failed(error)
  }
}

/** Gives the payload to the handler, if it is as its schema wants it. */
function handle(checked: SchemaResult<unknown>, context: RunContext): Outcome | Promise<Outcome> {
  const { handler } = context
  if (checked.issues !== undefined) {
    const issues = checked.issues.map((issue) => `${issuePath(issue) || 'payload'}: ${issue.message}`).join('; ')
    return { verdict: 'dead', reason: 'invalid', error: shorten(issues) }
  }
  context.assertRunning()
  const result = handler.bare ? handler.handler(checked.value) : handler.handler(checked.value, context)
  return isThenable(result) ? Promise.resolve(result).then(asOutcome) : asOutcome(result)
}

function notWaitedFor(type: string): ConflictError {
  return new ConflictError(`the handler of ${type} asked for a repository and returned without waiting for it: make it async`, {
    code: 'OUTBOX_STATEMENT_NOT_AWAITED',
  })
}

/** A promise of whatever make: query builders have their own. */
export function isThenable<T>(value: T | PromiseLike<T>): value is PromiseLike<T> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function'
}

function asOutcome(result: void | Verdict): Outcome {
  if (result === undefined || result === null || typeof result !== 'object' || !('verdict' in result)) return DONE
  const error = result.reason === undefined ? {} : { error: shorten(result.reason) }
  if (result.verdict === 'dead') return { verdict: 'dead', reason: 'verdict', ...error }
  if (result.verdict === 'discard') return { verdict: 'discard', ...error }
  return { verdict: 'retry', ...delayOf(result.delayMs), ...error }
}

export function failed(error: unknown): NotDone {
  return { verdict: 'retry', error: shorten(textOf(error)), ...delayOf(HandlerError.is(error) ? error.retryAfterMs : undefined) }
}

/** Anything may be thrown, also what cannot be turned into text. */
function textOf(error: unknown): string {
  try {
    return error instanceof Error ? `${error.name}: ${error.message}` : String(error)
  } catch {
    return 'an error without a text'
  }
}

function delayOf(ms: number | undefined): { readonly delay?: number } {
  return ms === undefined || Number.isNaN(ms) ? {} : { delay: Math.min(Math.max(0, ms), MAX_DELAY_MS) }
}

/** Applies limit and back-off to an attempt that failed. */
export function withLimit<O extends Outcome>(
  outcome: O,
  event: PendingEvent,
  handler: BoundHandler,
  backoff: Backoff,
): O | NotDone {
  if (outcome.verdict !== 'retry') return outcome
  if (event.attempt >= handler.maxAttempts) return { ...outcome, verdict: 'dead', reason: 'attempts' }
  if (outcome.delay !== undefined) return outcome
  const policy = { attempts: handler.maxAttempts, budgetMs: Infinity, baseDelayMs: backoff.baseMs, maxDelayMs: backoff.maxMs }
  return { ...outcome, delay: Math.round(retryDelay(event.attempt, policy)) }
}

/** What is kept of an error: no secret, no novel. */
function shorten(text: string): string {
  const scrubbed = scrub(text).replaceAll('\0', '\ufffd')
  const short = scrubbed.length > MAX_ERROR_CHARACTERS ? `${scrubbed.slice(0, MAX_ERROR_CHARACTERS)}…` : scrubbed
  // Half of a character is no text to PostgreSQL.
  return short.toWellFormed()
}
