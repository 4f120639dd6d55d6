import { EventEmitter } from 'node:events'
import {
  AuthError,
  type CallOptions,
  type Closable,
  ConnectionError,
  DataError,
  HandlerError,
  isStandardSchema,
  sleep,
  type StandardSchema,
  withDeadline,
  untilAborted,
} from '@common-handlers/core'
import type { VaultApi } from './api.ts'
import type { ApiRequest } from './client.ts'
import type { SecretData } from './secret-data.ts'
import { type Grant, type LeaseAnswer, readGrant } from './lease-answer.ts'
import { Alarm, leaseDueAt, leaseRetryDelay } from './lease-clock.ts'
import { validate } from './validate.ts'

export interface LeaseOptions extends CallOptions {
  /** Sent as JSON, for engines that make something from a description (pki, aws, ssh); the request is a POST then, else a GET. */
  readonly body?: unknown
  /**
   * How long a value that was replaced stays good for those who read `value` and did not `acquire()` it, in milliseconds;
   * never past its own end. Default 30 000.
   */
  readonly graceMs?: number | undefined
}

/** What the events of a {@link Lease} tell. */
export interface LeaseEvents<T> {
  /** The same value is good for longer. */
  renewed: [{ readonly expiresAt: number }]
  /** There is another value; the one before stays good until those who acquired it have released it, or it ends. */
  rotated: [{ readonly value: T; readonly expiresAt: number }]
  /** The value has ended and there is no other yet; it is tried for until there is, and `rotated` follows. */
  lost: [{ readonly error: HandlerError }]
}

/** A user and its password, good until `release()` or `expiresAt`, whichever is first. */
export interface LeasedCredentials {
  readonly user: string
  readonly password: string
  /** In the time of `Date.now()`. It moves on while the lease is renewed, and no more once the lease was replaced. */
  readonly expiresAt: number
  /** Says that no connection made with them is open any more. */
  release(): void
}

export interface AcquireOptions {
  readonly signal?: AbortSignal | undefined
  /** Credentials of this lease that the other server refused: whether they still hold is looked up first. */
  readonly rejected?: { readonly user: string } | undefined
}

/** One value and the time it is good for. */
interface Term<T> {
  readonly grant: Grant
  readonly value: T
  /** The last request that it was made or extended by. */
  since: number
  expiresAt: number
  /** It cannot be extended any more: it is not renewable, its max TTL is near, or its token has gone. */
  final: boolean
  /** How many have acquired and not released it. */
  holders: number
  /** Of one that was replaced: when it is let go. */
  readonly retirement: Alarm
}

const DEFAULT_GRACE_MS = 30_000
const CLOSE_TIMEOUT_MS = 2_000
const REVOKE_TIMEOUT_MS = 30_000
/** One try to renew or replace takes a sixth of the lease's life at most, within these bounds. */
const MIN_TRY_MS = 1_000
const MAX_TRY_MS = 30_000
/** From here on a lease is replaced when it cannot be renewed. */
const LAST_SIXTH = 1 / 6
/** What is lost, or cannot be read, is tried for every ten seconds at least: somebody stands still for it. */
const LOST_LIFE_MS = 120_000
/** A static account whose password is due is read again every second at least, at first. */
const DUE_LIFE_MS = 12_000
const PROMPT_READS = 20
/** A value that has ended already when it comes, by a clock that is ahead of the server, is asked for again after a minute. */
const ENDED_AT_ONCE_WAIT_MS = 60_000
/** Credentials that were rejected are looked up at most once in this time. */
const LOOK_UP_INTERVAL_MS = 1_000

/**
 * A secret that was made for this reader and has an end: database credentials, cloud keys, a certificate. Renewed between
 * one half and two thirds of its time; replaced by a new one when its max TTL is near (at least a third of its time is left
 * then), when it is revoked, or when its token ends; revoked by `close()`. Its timers do not keep the process alive.
 */
export class Lease<T = SecretData> extends EventEmitter<LeaseEvents<T>> implements Closable {
  /** `database/creds/app` */
  readonly path: string
  readonly #api: VaultApi
  readonly #obtain: Obtain<T>
  readonly #graceMs: number
  readonly #alarm = new Alarm()
  /** Ends what is under way when the time of `close()` is up. */
  readonly #abort = new AbortController()
  readonly #acquired = new WeakMap<object, Term<T>>()
  readonly #retired = new Set<Term<T>>()
  readonly #revocations = new Set<Promise<void>>()
  readonly #detach: readonly (() => void)[]
  #term: Term<T>
  #failures = 0
  #lost = false
  #step: Promise<void> | undefined
  /** How the try that is under way, or the next one, ends. */
  #outcome = outcome()
  #lookup: Promise<void> | undefined
  #closing: Promise<readonly PromiseSettledResult<void>[]> | undefined

  private constructor(path: string, api: VaultApi, obtain: Obtain<T>, graceMs: number, term: Term<T>) {
    super()
    this.path = path
    this.#api = api
    this.#obtain = obtain
    this.#graceMs = graceMs
    this.#term = term
    this.#detach = [
      api.onClose((signal) => this.#end(signal).then(() => undefined)),
      api.onTokenLost((endsAt) => this.#tokenLost(endsAt)),
    ]
    this.#schedule()
  }

  /** For VaultHandler.lease. */
  static async open<T>(
    api: VaultApi,
    path: string,
    second: StandardSchema<T> | LeaseOptions = {},
    third: LeaseOptions = {},
  ): Promise<Lease<T>> {
    const [schema, options] = isStandardSchema(second) ? [second, third] : [undefined, second]
    const { body, graceMs = DEFAULT_GRACE_MS } = options
    const request = { method: body === undefined ? 'GET' : 'POST', path, body, idempotent: body === undefined }
    const obtain: Obtain<T> = async (policy, signal) => {
      const since = Date.now()
      const answer = (await api.authorised({ ...request, policy }, signal)) as LeaseAnswer | undefined
      const grant = readGrant(path, answer, since)
      try {
        const value = schema === undefined ? (grant.data as T) : await validate(path, grant.data, schema)
        const expiresAt = since + grant.ttlMs
        return { grant, value, since, expiresAt, final: !grant.renewable, holders: 0, retirement: new Alarm() }
      } catch (error) {
        if (grant.leaseId !== '') await api.authorised(revocation(grant), signal).catch(() => undefined)
        throw error
      }
    }
    return api.call(`lease ${path}`, options, async (signal) => {
      const term = await obtain(undefined, signal)
      return new Lease(path, api, obtain, graceMs, term)
    })
  }

  /** What the server gave, or what the schema made of it. */
  get value(): T {
    return this.#term.value
  }

  /** Empty for a static account and for what has no lease. */
  get leaseId(): string {
    return this.#term.grant.leaseId
  }

  /** In the time of `Date.now()`; of a static account, when the server means to change its password next. */
  get expiresAt(): number {
    return this.#term.expiresAt
  }

  /**
   * The user and password for new connections, held until they are released: a lease that was replaced is revoked when all
   * who acquired it have released it. No request while the lease is good; one that was lost is waited for until the next
   * try to replace it has ended. With these three (`acquire`, `on`, `off`) a lease is a credential provider.
   * @throws DataError `VAULT_LEASE_WITHOUT_CREDENTIALS` when there is no `username` and `password`
   * @throws ConnectionError `VAULT_LEASE_CLOSED`
   */
  async acquire(options: AcquireOptions = {}): Promise<LeasedCredentials> {
    const signal = options.signal ?? this.#abort.signal
    this.#assertOpen()
    if (options.rejected !== undefined && this.#acquired.get(options.rejected) === this.#term) {
      this.#lookup ??= this.#lookUp(this.#term).finally(() => {
        this.#lookup = undefined
      })
      await untilAborted(this.#lookup, signal)
    }
    if (this.#term.grant.kind !== 'static' && Date.now() >= this.#term.expiresAt) {
      // A process that was suspended finds its lease ended before its timer has told it.
      if (this.#failures === 0) this.#keepInBackground()
      await untilAborted(this.#outcome.promise, signal)
    }
    this.#assertOpen()
    return this.#hold(this.#term)
  }

  /** Renews now and not when it is due; what cannot be renewed is replaced. */
  renew(options?: CallOptions): Promise<void> {
    this.#assertOpen()
    return this.#api.call(`renew ${this.path}`, options, (signal) => untilAborted(this.#keep(), signal))
  }

  /** Ends the lease: like `close()`, but waits for the server and throws if it did not revoke. */
  async revoke(options?: CallOptions): Promise<void> {
    const ends = await this.#api.call(`revoke ${this.path}`, options, (signal) => this.#end(signal))
    for (const end of ends) if (end.status === 'rejected') throw end.reason
  }

  /** Stops renewing and revokes what is left, within two seconds; what cannot be revoked ends by itself. */
  async close(): Promise<void> {
    await this.#end(AbortSignal.timeout(CLOSE_TIMEOUT_MS))
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #hold(term: Term<T>): LeasedCredentials {
    const { username, password } = term.grant.data
    if (typeof username !== 'string' || typeof password !== 'string') {
      throw new DataError(`${this.path} gave no username and password; it gave: ${Object.keys(term.grant.data).join(', ')}`, {
        code: 'VAULT_LEASE_WITHOUT_CREDENTIALS',
        context: { path: this.path },
      })
    }
    term.holders++
    let held = true
    const release = (): void => {
      if (!held) return
      held = false
      term.holders--
      if (term.holders === 0 && this.#retired.has(term)) this.#letGo(term)
    }
    const credentials = { user: username, release }
    // Not to be seen when they are printed.
    Object.defineProperty(credentials, 'password', { value: password })
    Object.defineProperty(credentials, 'expiresAt', { get: () => term.expiresAt })
    this.#acquired.set(credentials, term)
    return credentials as LeasedCredentials
  }

  #schedule(): void {
    if (this.#closing !== undefined) return
    const { grant, since, expiresAt } = this.#term
    let due = expiresAt
    if (grant.kind !== 'static') due = grant.ttlMs > 0 ? leaseDueAt(since, expiresAt) : since + ENDED_AT_ONCE_WAIT_MS
    this.#alarm.set(due, () => this.#keepInBackground())
  }

  #keepInBackground(): void {
    // What went wrong was logged, and told by `lost` where it matters.
    this.#keep().catch(() => undefined)
  }

  /** Renews, replaces or reads again; once, however many ask for it. */
  #keep(): Promise<void> {
    return (this.#step ??= this.#keepOnce().finally(() => {
      this.#step = undefined
    }))
  }

  async #keepOnce(): Promise<void> {
    this.#alarm.clear()
    const ended = this.#outcome
    try {
      const { ttlMs } = this.#term.grant
      const timeoutMs = Math.min(MAX_TRY_MS, Math.max(MIN_TRY_MS, ttlMs * LAST_SIXTH))
      await withDeadline(
        { signal: this.#abort.signal, timeoutMs },
        { prefix: 'VAULT', action: `keeping ${this.path}` },
        ({ signal }) => (this.#mayRenew() ? this.#extend(signal) : this.#replace(signal)),
      )
      this.#outcome = outcome()
      ended.resolve()
    } catch (error) {
      this.#outcome = outcome()
      ended.reject(error)
      this.#failed(error)
      throw error
    }
  }

  #mayRenew(): boolean {
    const { final, grant, expiresAt } = this.#term
    return !final && Date.now() < expiresAt - grant.ttlMs * LAST_SIXTH
  }

  async #extend(signal: AbortSignal): Promise<void> {
    const term = this.#term
    const since = Date.now()
    let answer: LeaseAnswer
    try {
      answer = (await this.#api.authorised(
        {
          method: 'PUT',
          path: 'sys/leases/renew',
          body: { lease_id: term.grant.leaseId },
          idempotent: true,
          policy: { attempts: 1 },
        },
        signal,
      )) as LeaseAnswer
    } catch (error) {
      if (!HandlerError.is(error) || error.retry !== 'never') throw error
      term.final = true
      if (hasEnded(error)) this.#lose(error)
      else this.#api.logger.warn({ path: this.path, err: error }, 'vault lease cannot be renewed and is replaced')
      await this.#replace(signal)
      return
    }
    const ttlMs = (answer.lease_duration ?? 0) * 1000
    // Its token may have been lost in the meantime.
    if (!term.final) Object.assign(term, { since, expiresAt: since + ttlMs })
    // The server gives less than before when the max TTL is near.
    if (ttlMs < term.grant.ttlMs) term.final = true
    if (term.final) {
      await this.#replace(signal)
      return
    }
    this.#failures = 0
    this.#schedule()
    this.#api.logger.debug({ path: this.path, expiresAt: isoTime(term.expiresAt) }, 'vault lease renewed')
    this.#tell('renewed', { expiresAt: term.expiresAt })
  }

  async #replace(signal: AbortSignal): Promise<void> {
    const next = await this.#obtain({ attempts: 1 }, signal)
    const before = this.#term
    if (next.grant.kind === 'static' && isSameRotation(before.grant, next.grant)) {
      this.#sameRotation(next)
      return
    }
    this.#term = next
    this.#failures = 0
    this.#lost = false
    this.#schedule()
    this.#api.logger.info({ path: this.path, expiresAt: isoTime(next.expiresAt) }, 'vault lease replaced')
    this.#tell('rotated', { value: next.value, expiresAt: next.expiresAt })
    this.#retire(before)
  }

  /** The password is still the one before: early, or the server is late (OpenBao looks every five seconds). */
  #sameRotation(next: Term<T>): void {
    Object.assign(this.#term, { since: next.since, expiresAt: next.expiresAt })
    if (this.#lost) this.#tell('renewed', { expiresAt: next.expiresAt })
    this.#lost = false
    if (next.grant.ttlMs > 0) {
      this.#failures = 0
      this.#schedule()
    } else this.#tryAgain(this.#failures < PROMPT_READS ? DUE_LIFE_MS : Infinity)
  }

  #tryAgain(lifeMs: number, retryAfterMs?: number): void {
    if (this.#closing !== undefined) return
    this.#failures++
    const delayMs = leaseRetryDelay(this.#failures, lifeMs, retryAfterMs)
    this.#alarm.set(Date.now() + delayMs, () => this.#keepInBackground())
  }

  #failed(error: unknown): void {
    if (this.#closing !== undefined) return
    const { expiresAt, grant } = this.#term
    this.#api.logger.warn({ path: this.path, err: error }, 'vault lease could not be kept; it is tried again')
    // What has no lease does not end with the token that it was made by.
    const ended = Date.now() >= expiresAt || (grant.kind === 'dynamic' && HandlerError.is(error) && hasEnded(error))
    if (ended && HandlerError.is(error)) this.#lose(error)
    const lifeMs = this.#lost || grant.kind === 'static' ? LOST_LIFE_MS : grant.ttlMs
    this.#tryAgain(lifeMs, HandlerError.is(error) ? error.retryAfterMs : undefined)
  }

  #lose(error: HandlerError): void {
    if (this.#lost) return
    this.#lost = true
    this.#failures = 0
    this.#term.expiresAt = Math.min(this.#term.expiresAt, Date.now())
    this.#api.logger.warn({ path: this.path, err: error }, 'vault lease lost')
    this.#tell('lost', { error })
  }

  /** Asks whether a lease that was rejected elsewhere still is one. */
  async #lookUp(term: Term<T>): Promise<void> {
    await sleep(term.since + LOOK_UP_INTERVAL_MS - Date.now(), this.#abort.signal)
    if (this.#term !== term || term.grant.kind === 'dated') return
    if (term.grant.kind === 'static') return await this.#keep().catch(() => undefined)
    const request = { method: 'PUT', path: 'sys/leases/lookup', body: { lease_id: term.grant.leaseId }, idempotent: true }
    try {
      await this.#api.authorised(request, this.#abort.signal)
    } catch (error) {
      if (this.#term !== term || !HandlerError.is(error) || !hasEnded(error)) return
      term.final = true
      this.#lose(error)
      this.#keepInBackground()
    }
  }

  /** A lease ends with the token it was made by. */
  #tokenLost(endsAt: number): void {
    const term = this.#term
    if (term.grant.kind !== 'dynamic') return
    term.final = true
    term.expiresAt = Math.min(term.expiresAt, endsAt)
    if (endsAt <= Date.now()) {
      const message = `the lease of ${this.path} has ended with its token`
      this.#lose(new AuthError(message, { code: 'VAULT_TOKEN_INVALID', context: { path: this.path } }))
    }
    this.#alarm.set(Date.now(), () => this.#keepInBackground())
  }

  /** What was replaced is revoked when nobody needs it any more, and forgotten at its end. */
  #retire(term: Term<T>): void {
    const now = Date.now()
    if (term.grant.leaseId === '' || now >= term.expiresAt) return
    this.#retired.add(term)
    if (term.holders > 0) term.retirement.set(term.expiresAt, () => void this.#retired.delete(term))
    else term.retirement.set(Math.min(now + this.#graceMs, term.expiresAt), () => this.#letGo(term))
  }

  #letGo(term: Term<T>): void {
    term.retirement.clear()
    this.#retired.delete(term)
    const signal = AbortSignal.any([this.#abort.signal, AbortSignal.timeout(REVOKE_TIMEOUT_MS)])
    const revoked = this.#api
      .authorised(revocation(term.grant), signal)
      .then(
        () => undefined,
        (error: unknown) =>
          this.#api.logger.warn({ path: this.path, err: error }, 'vault lease was not revoked; it ends by itself'),
      )
      .finally(() => this.#revocations.delete(revoked))
    this.#revocations.add(revoked)
  }

  #end(signal: AbortSignal): Promise<readonly PromiseSettledResult<void>[]> {
    return (this.#closing ??= this.#endOnce(signal))
  }

  async #endOnce(signal: AbortSignal): Promise<readonly PromiseSettledResult<void>[]> {
    this.#alarm.clear()
    for (const detach of this.#detach) detach()
    // A lease that is being made is one to revoke.
    await untilAborted(this.#step ?? Promise.resolve(), signal).catch(() => undefined)
    this.#outcome.reject(this.#closedError())
    const terms = [this.#term, ...this.#retired].filter((term) => term.grant.leaseId !== '' && !this.#lostOf(term))
    for (const term of this.#retired) term.retirement.clear()
    this.#retired.clear()
    const ends = await Promise.allSettled([
      ...terms.map(async (term) => {
        await this.#api.authorised(revocation(term.grant), signal)
      }),
      ...[...this.#revocations].map((revoked) => untilAborted(revoked, signal)),
    ])
    this.#abort.abort(this.#closedError())
    return ends
  }

  #lostOf(term: Term<T>): boolean {
    return this.#lost && term === this.#term
  }

  /** A listener that throws is its own problem: it must not stop the renewal, nor keep others from hearing. */
  #tell<K extends keyof LeaseEvents<T>>(event: K, ...facts: LeaseEvents<T>[K]): void {
    if (this.#closing !== undefined) return
    for (const listener of this.rawListeners(event)) {
      try {
        Reflect.apply(listener, this, facts)
      } catch (error) {
        this.#api.logger.error({ path: this.path, event, err: error }, 'a listener of a vault lease threw')
      }
    }
  }

  #assertOpen(): void {
    if (this.#closing !== undefined) throw this.#closedError()
  }

  #closedError(): ConnectionError {
    return new ConnectionError(`the lease of ${this.path} is closed`, {
      code: 'VAULT_LEASE_CLOSED',
      retry: 'never',
      context: { path: this.path },
    })
  }
}

type Obtain<T> = (policy: ApiRequest['policy'], signal: AbortSignal) => Promise<Term<T>>

/** Nobody has to wait for it. */
function outcome(): PromiseWithResolvers<void> {
  const made = Promise.withResolvers<void>()
  made.promise.catch(() => undefined)
  return made
}

function revocation({ leaseId }: Grant): ApiRequest {
  return { method: 'PUT', path: 'sys/leases/revoke', body: { lease_id: leaseId }, idempotent: true }
}

/** Does an error say that the lease is no more? It ends with its token too. */
function hasEnded(error: HandlerError): boolean {
  return error.code === 'VAULT_LEASE_NOT_FOUND' || error.outcome === 'auth'
}

function isSameRotation(before: Grant, next: Grant): boolean {
  return ['last_vault_rotation', 'username', 'password'].every((field) => before.data[field] === next.data[field])
}

const isoTime = (time: number): string => new Date(time).toISOString()
