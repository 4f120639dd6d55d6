import { ConflictError, HandlerError, issuePath, OperationTimeoutError, retryDelay, scrub } from '@common-handlers/core'
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
  /** Not yet given back. */
  readonly open: Set<OutboxRepository> = new Set()

  constructor(event: ReceivedEvent, handler: BoundHandler, repositories: Repositories) {
    this.event = event
    this.handler = handler
    this.#repositories = repositories
    this.began = performance.now()
    this.deadline = this.began + handler.timeoutMs
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
    return () => this.#repository()
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

  /** @internal */
  begin(): Promise<Outcome> {
    return new Promise((resolve) => (this.#expire = resolve))
  }

  /** @internal What the handler forgot to close. */
  end(): OutboxRepository[] {
    this.#ended = true
    return [...this.open]
  }
}

/** Runs the handler. Never rejects; the outcome does not know yet of limits of attempts. */
export async function runHandler(event: PendingEvent, context: RunContext): Promise<Outcome> {
  const { handler } = context
  if (event.expired) return { verdict: 'dead', reason: 'expired', error: 'its time had passed before it was begun' }
  try {
    let payload: unknown = JSON.parse(event.payload)
    if (handler.schema !== undefined) {
      const validating = handler.schema['~standard'].validate(payload)
      const checked = validating instanceof Promise ? await validating : validating
      if (checked.issues !== undefined) {
        const issues = checked.issues.map((issue) => `${issuePath(issue) || 'payload'}: ${issue.message}`).join('; ')
        return { verdict: 'dead', reason: 'invalid', error: shorten(issues) }
      }
      payload = checked.value
    }
    const running = handler.bare ? handler.handler(payload) : handler.handler(payload, context)
    if (!(running instanceof Promise)) return asOutcome(running)
    return await Promise.race([running.then(asOutcome), context.begin()])
  } catch (error) {
    return failed(error)
  }
}

function asOutcome(result: void | Verdict): Outcome {
  if (result === undefined || result === null || typeof result !== 'object' || !('verdict' in result)) return DONE
  const error = result.reason === undefined ? {} : { error: shorten(result.reason) }
  if (result.verdict === 'dead') return { verdict: 'dead', reason: 'verdict', ...error }
  if (result.verdict === 'discard') return { verdict: 'discard', ...error }
  return { verdict: 'retry', ...(result.delayMs === undefined ? {} : { delay: Math.max(0, result.delayMs) }), ...error }
}

export function failed(error: unknown): NotDone {
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error)
  const after = HandlerError.is(error) ? error.retryAfterMs : undefined
  return { verdict: 'retry', error: shorten(text), ...(after === undefined ? {} : { delay: after }) }
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
  return scrubbed.length > MAX_ERROR_CHARACTERS ? `${scrubbed.slice(0, MAX_ERROR_CHARACTERS)}…` : scrubbed
}
