import { HandlerError, type Secret, untilAborted } from '@common-handlers/core'
import type { VaultApi } from './api.ts'
import type { VaultConfig } from './config.ts'
import { Alarm, leaseDueAt, leaseRetryDelay } from './lease-clock.ts'
import { type LoginMethod, loginMethodOf, type Obtained, type TokenLife } from './login-methods.ts'

/** The token in use. Times are those of `Date.now()`; Infinity for a token without end, or with one that is not known. */
interface Held extends Obtained {
  readonly since: number
  readonly expiresAt: number
}

type TokenApi = Pick<VaultApi, 'send' | 'logger' | 'signal' | 'closing' | 'onClose'>

/** A token is replaced this long before its end, or at nine tenths of its life where that is later. */
const EARLY_MS = 30_000
/** A given token is looked up this long after its first use: a program that is done by then makes no request for it. */
const LOOK_UP_AFTER_MS = 1_000
/** The server counts in whole seconds; a renewal that gains less has met the maximum of the token. */
const LEAST_GAIN_MS = 1_000

/**
 * The token of a handler: obtained at the first call that needs it, by one login however many calls wait for it; from then on
 * renewed in the background as long as a renewal moves its end, and replaced by a new login before that.
 */
export class TokenSource {
  readonly #method: LoginMethod | undefined
  readonly #renewToken: boolean
  readonly #api: TokenApi
  readonly #alarm = new Alarm()
  readonly #listeners = new Set<(endsAt: number) => void>()
  #held: Held | undefined
  /** The token before, from when it was lost until another is there. */
  #lost: Held | undefined
  #pending: Promise<void> | undefined

  constructor(config: VaultConfig, api: TokenApi) {
    this.#method = loginMethodOf(config)
    this.#renewToken = config.renewToken
    this.#api = api
    api.closing.addEventListener('abort', () => this.#alarm.clear(), { once: true })
    // A login that nobody waits for any more gives a token too, which is to be revoked.
    api.onClose((signal) => untilAborted(this.#pending ?? Promise.resolve(), signal))
  }

  /** For messages; undefined where no way to log in was given. */
  get origin(): string | undefined {
    return this.#method?.origin
  }

  /** Can another token be had when this one is refused? */
  get canReplace(): boolean {
    return this.#method?.again ?? false
  }

  /** A token that was obtained by logging in and that nobody else uses. */
  get own(): Secret | undefined {
    return this.#held?.own === true ? this.#held.token : undefined
  }

  /** The token, obtained or replaced first where needed; undefined where no way to log in was given. */
  async get(signal: AbortSignal): Promise<Secret | undefined> {
    if (this.#method === undefined) return undefined
    const held = this.#held
    if (held === undefined || (this.canReplace && Date.now() >= replaceAt(held))) {
      try {
        await untilAborted(this.#obtain(this.#method), signal)
      } catch (error) {
        signal.throwIfAborted()
        // A token that still has some seconds left serves until another can be had.
        if (held === undefined || held !== this.#held || Date.now() >= held.expiresAt) throw error
        this.#api.logger.warn({ origin: this.origin, err: error }, 'vault login failed; the present token is used until it ends')
      }
    }
    return this.#held?.token
  }

  /** Forgets the token if it is still the current one: of many calls that were refused at once, one causes a login. */
  invalidate(token: Secret): void {
    if (this.#held?.token !== token) return
    this.#lost = { ...this.#held, expiresAt: Math.min(this.#held.expiresAt, Date.now()) }
    this.#held = undefined
    this.#alarm.clear()
  }

  /** What a renewal by hand was answered. */
  renewed(life: TokenLife): void {
    if (this.#held !== undefined) this.#hold({ ...this.#held, life }, Date.now())
  }

  /** See {@link VaultApi.onTokenLost}. */
  onLost(listener: (endsAt: number) => void): () => void {
    this.#listeners.add(listener)
    return () => void this.#listeners.delete(listener)
  }

  #obtain(method: LoginMethod): Promise<void> {
    return (this.#pending ??= this.#replace(method).finally(() => {
      this.#pending = undefined
    }))
  }

  async #replace(method: LoginMethod): Promise<void> {
    const before = this.#held ?? this.#lost
    const since = Date.now()
    const obtained = await method.obtain((request) => this.#api.send(request, this.#api.signal))
    const { expiresAt } = this.#hold(obtained, since)
    this.#lost = undefined
    this.#api.logger.debug(
      { origin: method.origin, ...(expiresAt === Infinity ? {} : { expiresAt: new Date(expiresAt).toISOString() }) },
      'vault token obtained',
    )
    if (before === undefined || before.token.expose() === obtained.token.expose()) return
    for (const listener of this.#listeners) listener(before.expiresAt)
  }

  /** `gained`: a renewal did move its end. */
  #hold(obtained: Obtained, since: number, gained = true): Held {
    const seconds = obtained.life?.lease_duration ?? 0
    const held: Held = { ...obtained, since, expiresAt: seconds > 0 ? since + seconds * 1000 : Infinity }
    this.#held = held
    this.#alarm.clear()
    if (obtained.life === undefined) this.#at(since + LOOK_UP_AFTER_MS, held, () => this.#lookUp(held))
    else if (gained && isRenewable(obtained.life)) this.#at(leaseDueAt(since, held.expiresAt), held, () => this.#renew(held))
    else this.#at(replaceAt(held), held, () => this.#logInForLeases())
    return held
  }

  /** Does it at that time, and again with growing waits while it fails for reasons that pass; at the end, a login. */
  #at(time: number, held: Held, work: () => Promise<void>, failures = 0): void {
    if (!this.#renewToken || this.#api.closing.aborted || time === Infinity) return
    this.#alarm.set(time, () => void this.#try(held, work, failures))
  }

  async #try(held: Held, work: () => Promise<void>, failures: number): Promise<void> {
    try {
      await work()
    } catch (error) {
      if (this.#held !== held || this.#api.closing.aborted) return
      const passes = HandlerError.is(error) && error.retry !== 'never'
      this.#api.logger.warn({ origin: this.origin, err: error, again: passes }, 'vault token could not be kept alive')
      const end = replaceAt(held)
      const retryAfterMs = HandlerError.is(error) ? error.retryAfterMs : undefined
      const next = Date.now() + leaseRetryDelay(failures + 1, held.expiresAt - held.since, retryAfterMs)
      if (next < end && passes) this.#at(next, held, work, failures + 1)
      else this.#at(Math.max(next, end), held, () => this.#logInForLeases(), failures + 1)
    }
  }

  async #lookUp(held: Held): Promise<void> {
    const since = Date.now()
    const answer = await this.#sendOnce('GET', 'auth/token/lookup-self', held.token)
    const { ttl, ...life } = (answer as { readonly data: Omit<TokenLife, 'lease_duration'> & { readonly ttl: number } }).data
    if (this.#held === held) this.#hold({ ...held, life: { ...life, lease_duration: ttl } }, since)
  }

  async #renew(held: Held): Promise<void> {
    const since = Date.now()
    const answer = await this.#sendOnce('POST', 'auth/token/renew-self', held.token)
    const { auth: life } = answer as { readonly auth: TokenLife }
    if (this.#held !== held) return
    // As long a life as before, whatever became of the clock; or a shorter one that ends later.
    const gained =
      life.lease_duration >= (held.life?.lease_duration ?? 0) ||
      since + life.lease_duration * 1000 >= held.expiresAt + LEAST_GAIN_MS
    const { expiresAt } = this.#hold({ ...held, life }, since, gained)
    this.#api.logger.debug({ origin: this.origin, expiresAt: new Date(expiresAt).toISOString() }, 'vault token renewed')
  }

  /** When the token ends its leases end: whoever holds some needs another token before that. Others wait for the next call. */
  async #logInForLeases(): Promise<void> {
    if (this.#listeners.size > 0 && this.#method?.again === true) await this.#obtain(this.#method)
  }

  #sendOnce(method: string, path: string, token: Secret): Promise<unknown> {
    const body = method === 'POST' ? {} : undefined
    return this.#api.send({ method, path, body, token, idempotent: true, policy: { attempts: 1 } }, this.#api.closing)
  }
}

const isRenewable = (life: TokenLife): boolean => life.renewable && life.lease_duration > 0 && (life.num_uses ?? 0) === 0

function replaceAt({ since, expiresAt }: Held): number {
  return expiresAt === Infinity ? Infinity : expiresAt - Math.min(EARLY_MS, (expiresAt - since) / 10)
}
