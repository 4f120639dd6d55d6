import { CapacityError, ConnectionError, HandlerError, onAbort } from '@common-handlers/core'
import { unlessAborted } from './abort.ts'
import type { CredentialProvider, HeldCredentials } from './credentials.ts'
import type { DriverClient } from './driver.ts'

// pg has a pool, but one of one user: it cannot let an old user's connections drain while a new one logs in under the
// same limit, and it has no queue limit, no counts of waiting and no jitter in the life of a connection.

export interface PoolLimits {
  readonly min: number
  readonly max: number
  readonly idleTimeoutMs: number
  readonly maxLifetimeMs: number
  readonly waitTimeoutMs: number
  readonly maxWaiting?: number | undefined
  readonly drainTimeoutMs: number
  /** For a connection to be made: credentials, login and, where that was refused, the second of both. */
  readonly connectTimeoutMs: number
}

/** What the pool does now, and what it did since it was made. */
export interface PoolStatus {
  /** Connections, those included that are about to be closed. */
  readonly total: number
  readonly idle: number
  /** Connections on loan to a call. */
  readonly busy: number
  /** Connections being made. */
  readonly connecting: number
  /** Calls that wait for a connection. */
  readonly waiting: number
  /** Users whose connections are open: 1, and more while those of a former user drain. */
  readonly generations: number
  /** Loans since the beginning. */
  readonly loans: number
  /** How many of them had to wait, for how long together, and the longest wait, in milliseconds. */
  readonly waits: number
  readonly waitMs: number
  readonly longestWaitMs: number
  /** Connections that were made, and those of them that the server or the network ended. */
  readonly opened: number
  readonly lost: number
}

/** A connection on loan. Give it back once. */
export interface Loan {
  readonly client: DriverClient
  release(): void
}

/** How the pool reaches the server, and whom it tells. */
export interface PoolServer {
  readonly credentials: CredentialProvider
  /** Logs in. @throws HandlerError; AuthError `POSTGRES_LOGIN_REFUSED` makes the pool ask for other credentials once */
  connect(login: HeldCredentials, signal: AbortSignal): Promise<DriverClient>
  /** An idle connection has ended, and not by us. */
  onLost(reason: string): void
  /** New credentials were announced and could not be had; the next connection asks again. */
  onRotationFailed(reason: string): void
}

/** The connections of one user. */
interface Generation {
  readonly user: string
  held: HeldCredentials
  readonly members: Set<Member>
  opening: number
  /** Another user has taken over: nothing is lent from it any more. */
  old: boolean
  drain?: NodeJS.Timeout
}

interface Member {
  readonly client: DriverClient
  readonly generation: Generation
  /** In the time of performance.now(). */
  readonly retireAt: number
  state: 'idle' | 'busy' | 'closing'
  idleSince: number
  timer?: NodeJS.Timeout | undefined
}

/** A try to make a connection. */
interface Attempt {
  readonly signal: AbortSignal
  /** What it waits for. */
  step: 'the credentials were not given' | 'the server did not answer'
}

interface Waiter {
  settle(outcome: Member | Error): void
}

const MAX_TIMER_MS = 2 ** 31 - 1
/** Connections that were made at one time are not to end at one time. */
const LIFETIME_JITTER = 0.1

/**
 * Connections that are lent to one call at a time, `max` at most, whoever they are logged in as. When the credentials
 * change to another user, new connections are that user's; idle ones of the former are closed at once and busy ones as
 * they come back; when the last one has ended the former credentials are released.
 */
export class Pool {
  readonly #limits: PoolLimits
  readonly #server: PoolServer
  readonly #target: string
  readonly #abort = new AbortController()
  readonly #generations = new Set<Generation>()
  readonly #members = new Set<Member>()
  /** The last that came back is the first to be lent, so that the others can grow old. */
  readonly #idle: Member[] = []
  /** In the order in which they came. */
  readonly #waiting = new Set<Waiter>()
  #current: Generation | undefined
  #opening = 0
  #asked = 0
  #answered = 0
  #refused: Promise<Generation> | undefined
  #listening = false
  #ending: Promise<void> | undefined
  readonly #counts = { loans: 0, waits: 0, waitMs: 0, longestWaitMs: 0, opened: 0, lost: 0 }

  /** `target` is named in errors: `host:port/database`. */
  constructor(target: string, limits: PoolLimits, server: PoolServer) {
    this.#target = target
    this.#limits = limits
    this.#server = server
  }

  /**
   * Lends a connection.
   * @throws CapacityError `POSTGRES_POOL_EXHAUSTED`, `POSTGRES_POOL_QUEUE_FULL`; what connecting throws
   */
  acquire(signal: AbortSignal): Loan | Promise<Loan> {
    signal.throwIfAborted()
    if (this.#ending !== undefined) throw closed()
    for (let member = this.#idle.pop(); member !== undefined; member = this.#idle.pop()) {
      if (member.client.usable && performance.now() < member.retireAt) return this.#lend(member)
      this.#close(member)
    }
    const { maxWaiting } = this.#limits
    if (maxWaiting !== undefined && this.#full && this.#waiting.size - this.#opening >= maxWaiting) {
      throw this.#exhausted('POSTGRES_POOL_QUEUE_FULL', `${maxWaiting} calls wait for a connection already`)
    }
    return this.#wait(signal).then((member) => this.#lend(member))
  }

  status(): PoolStatus {
    let busy = 0
    for (const member of this.#members) if (member.state === 'busy') busy++
    return {
      total: this.#members.size,
      idle: this.#idle.length,
      busy,
      connecting: this.#opening,
      waiting: this.#waiting.size,
      generations: this.#generations.size,
      ...this.#counts,
    }
  }

  /** Closes every connection, those on loan too, and releases the credentials. */
  end(): Promise<void> {
    return (this.#ending ??= this.#end())
  }

  async #end(): Promise<void> {
    if (this.#listening) this.#server.credentials.off('rotated', this.#onRotated)
    this.#abort.abort(closed())
    for (const waiter of this.#waiting) waiter.settle(closed())
    await Promise.all([...this.#members].map((member) => member.client.close()))
    for (const generation of this.#generations) this.#release(generation)
  }

  /** Connections that are not about to be closed. */
  get #open(): number {
    let open = 0
    for (const member of this.#members) if (member.state !== 'closing') open++
    return open
  }

  get #full(): boolean {
    return this.#members.size + this.#opening >= this.#limits.max
  }

  #wait(signal: AbortSignal): Promise<Member> {
    const { promise, resolve, reject } = Promise.withResolvers<Member>()
    const { waitTimeoutMs } = this.#limits
    const since = performance.now()
    let timer: NodeJS.Timeout | undefined
    const settle = (outcome: Member | Error): void => {
      this.#waiting.delete(waiter)
      clearTimeout(timer)
      forget()
      const waited = performance.now() - since
      this.#counts.waits++
      this.#counts.waitMs += waited
      this.#counts.longestWaitMs = Math.max(this.#counts.longestWaitMs, waited)
      if (outcome instanceof Error) reject(outcome)
      else resolve(outcome)
    }
    const forget = onAbort(signal, () => settle(signal.reason as Error))
    const waiter: Waiter = { settle }
    const exhausted = (): void =>
      settle(this.#exhausted('POSTGRES_POOL_EXHAUSTED', `no connection became free in ${waitTimeoutMs} ms`))
    if (waitTimeoutMs > 0) {
      timer = setTimeout(() => {
        // One that is being made for it says by itself what becomes of it.
        if ([...this.#waiting].indexOf(waiter) >= this.#opening) exhausted()
        else timer = setTimeout(exhausted, this.#limits.connectTimeoutMs)
      }, waitTimeoutMs)
    }
    this.#waiting.add(waiter)
    this.#grow()
    return promise
  }

  #lend(member: Member): Loan {
    member.state = 'busy'
    this.#counts.loans++
    return { client: member.client, release: () => (member.client.reusable ? this.#offer(member) : this.#close(member)) }
  }

  /** To who has waited longest, or among the idle ones. */
  #offer(member: Member): void {
    if (member.state === 'closing') {
      // It ended as soon as it was made.
      this.#grow()
      return
    }
    const now = performance.now()
    if (this.#ending !== undefined || member.generation.old || !member.client.usable || now >= member.retireAt) {
      this.#close(member)
      return
    }
    const [waiter] = this.#waiting
    if (waiter !== undefined) {
      // Busy at once: the waiter goes on in a later turn, and a rotation in between must not take it for an idle one.
      member.state = 'busy'
      waiter.settle(member)
      return
    }
    member.state = 'idle'
    member.idleSince = now
    this.#idle.push(member)
    this.#watch(member)
  }

  /** Closes what is idle for too long, or too old. The timer runs on while it is lent, for one a loan would be dear. */
  #watch(member: Member): void {
    if (member.timer !== undefined) return
    const idleTimeoutMs = this.#limits.idleTimeoutMs === 0 ? Infinity : this.#limits.idleTimeoutMs
    const due = Math.min(member.idleSince + idleTimeoutMs, member.retireAt)
    if (due === Infinity) return
    const left = Math.max(0, Math.min(due - performance.now(), MAX_TIMER_MS))
    member.timer = setTimeout(() => {
      member.timer = undefined
      if (member.state !== 'idle') return
      const now = performance.now()
      const tooLong = now >= member.idleSince + idleTimeoutMs
      if (now >= member.retireAt || (tooLong && this.#open > this.#limits.min)) {
        this.#close(member)
        return
      }
      // One of those that are kept.
      if (tooLong) member.idleSince = now
      this.#watch(member)
    }, left).unref()
  }

  /** Makes as many connections as calls wait for, within the limit. */
  #grow(): void {
    while (this.#ending === undefined && this.#opening < this.#waiting.size && !this.#full) void this.#make()
  }

  async #make(): Promise<void> {
    this.#opening++
    let outcome: Member | Error
    try {
      outcome = await this.#inTime((attempt) => this.#connect(attempt))
    } catch (error) {
      outcome = error instanceof Error ? error : new Error(String(error))
    }
    this.#opening--
    if (!(outcome instanceof Error)) {
      this.#offer(outcome)
      return
    }
    const [waiter] = this.#waiting
    waiter?.settle(outcome)
    this.#grow()
  }

  /** @throws ConnectionError `POSTGRES_CONNECT_TIMEOUT` */
  async #inTime<T>(work: (attempt: Attempt) => Promise<T>): Promise<T> {
    const { connectTimeoutMs } = this.#limits
    const late = new AbortController()
    const attempt: Attempt = {
      signal: AbortSignal.any([this.#abort.signal, late.signal]),
      step: 'the credentials were not given',
    }
    const timer = setTimeout(() => {
      const why = `no connection to ${this.#target} in ${connectTimeoutMs} ms: ${attempt.step}`
      late.abort(new ConnectionError(why, { code: 'POSTGRES_CONNECT_TIMEOUT', retry: 'safe' }))
    }, connectTimeoutMs)
    try {
      return await work(attempt)
    } catch (error) {
      late.signal.throwIfAborted()
      throw error
    } finally {
      clearTimeout(timer)
    }
  }

  async #connect(attempt: Attempt): Promise<Member> {
    const first = await this.#login(attempt)
    const { held } = first
    try {
      return await this.#logIn(first, attempt)
    } catch (error) {
      if (!HandlerError.is(error) || error.code !== 'POSTGRES_LOGIN_REFUSED') throw error
      const next = await this.#afterRefusal(held, attempt)
      if (sameLogin(next.held, held)) throw error
      return await this.#logIn(next, attempt)
    }
  }

  async #logIn(generation: Generation, attempt: Attempt): Promise<Member> {
    generation.opening++
    attempt.step = 'the server did not answer'
    try {
      const client = await this.#server.connect(generation.held, attempt.signal)
      const { maxLifetimeMs } = this.#limits
      const lifetime = maxLifetimeMs === 0 ? Infinity : maxLifetimeMs * (1 - Math.random() * LIFETIME_JITTER)
      const member: Member = { client, generation, retireAt: performance.now() + lifetime, state: 'busy', idleSince: 0 }
      this.#members.add(member)
      generation.members.add(member)
      this.#counts.opened++
      client.onEnd(() => this.#ended(member))
      return member
    } finally {
      generation.opening--
      this.#settle(generation)
    }
  }

  /** Who is to log in now. An answer that was overtaken by a later one is not taken. */
  async #login(attempt: Attempt, rejected?: HeldCredentials): Promise<Generation> {
    this.#listen()
    const order = ++this.#asked
    const { signal } = attempt
    attempt.step = 'the credentials were not given'
    const asked = this.#server.credentials.acquire({ signal, ...(rejected === undefined ? {} : { rejected }) })
    const held = await unlessAborted(asked, signal).catch((error: unknown) => {
      asked.then(
        (late) => late.release(),
        () => undefined,
      )
      throw error
    })
    const current = this.#current
    if (this.#ending !== undefined || (current !== undefined && order < this.#answered)) {
      held.release()
      if (this.#ending !== undefined || current === undefined) throw closed()
      return current
    }
    this.#answered = order
    if (current?.user === held.user) {
      const former = current.held
      current.held = held
      former.release()
      return current
    }
    const generation: Generation = { user: held.user, held, members: new Set(), opening: 0, old: false }
    this.#generations.add(generation)
    this.#current = generation
    if (current !== undefined) this.#retire(current)
    return generation
  }

  /** Asks once for other credentials, however many logins were refused at one time. */
  async #afterRefusal(refused: HeldCredentials, attempt: Attempt): Promise<Generation> {
    const current = this.#current
    if (current !== undefined && !sameLogin(current.held, refused)) return current
    this.#refused ??= this.#login(attempt, current?.held ?? refused).finally(() => {
      this.#refused = undefined
    })
    return await this.#refused
  }

  #listen(): void {
    if (this.#listening) return
    this.#listening = true
    this.#server.credentials.on('rotated', this.#onRotated)
  }

  readonly #onRotated = (): void => {
    queueMicrotask(() => {
      if (this.#ending !== undefined || this.#asked === 0) return
      this.#inTime((attempt) => this.#login(attempt)).catch((error: unknown) => {
        if (this.#ending === undefined) this.#server.onRotationFailed(error instanceof Error ? error.message : String(error))
      })
    })
  }

  #retire(generation: Generation): void {
    generation.old = true
    for (const member of this.#idle.filter((idle) => idle.generation === generation)) this.#close(member)
    const { drainTimeoutMs } = this.#limits
    if (drainTimeoutMs > 0) {
      generation.drain = setTimeout(() => {
        const reason = new Error(`its user has been replaced, and it was still busy after ${drainTimeoutMs} ms`)
        for (const member of generation.members) member.client.destroy(reason)
      }, drainTimeoutMs).unref()
    }
    this.#settle(generation)
  }

  /** Releases the credentials of a former user when nothing is open with them. */
  #settle(generation: Generation): void {
    if (generation.old && generation.members.size === 0 && generation.opening === 0) this.#release(generation)
  }

  #release(generation: Generation): void {
    if (!this.#generations.delete(generation)) return
    clearTimeout(generation.drain)
    generation.held.release()
  }

  #close(member: Member): void {
    if (member.state === 'closing') return
    member.state = 'closing'
    this.#forget(member)
    void member.client.close()
  }

  #forget(member: Member): void {
    clearTimeout(member.timer)
    const index = this.#idle.indexOf(member)
    if (index >= 0) this.#idle.splice(index, 1)
  }

  #ended(member: Member): void {
    const { state } = member
    member.state = 'closing'
    this.#forget(member)
    this.#members.delete(member)
    member.generation.members.delete(member)
    if (state !== 'closing' && this.#ending === undefined) {
      this.#counts.lost++
      if (state === 'idle') this.#server.onLost(member.client.failure?.message ?? 'the connection was closed')
    }
    this.#settle(member.generation)
    this.#grow()
  }

  #exhausted(code: 'POSTGRES_POOL_EXHAUSTED' | 'POSTGRES_POOL_QUEUE_FULL', why: string): CapacityError {
    const { busy, connecting, waiting } = this.status()
    const { max } = this.#limits
    return new CapacityError(
      `${this.#target}: ${why}; of ${max} at most ${busy} are in use and ${connecting} are being made, and ${waiting} calls wait`,
      { code, retry: 'safe', context: { max, busy, connecting, waiting } },
    )
  }
}

const sameLogin = (one: HeldCredentials, other: HeldCredentials): boolean =>
  one.user === other.user && one.password === other.password

const closed = (): ConnectionError => new ConnectionError('the pool is closed', { code: 'POSTGRES_CLOSED', retry: 'never' })
