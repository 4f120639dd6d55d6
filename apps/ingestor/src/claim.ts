import { randomUUID } from 'node:crypto'
import { ConflictError, type Logger, NotFoundError, sleep } from '@common-handlers/core'
import type { ObjectStore } from '@common-handlers/storage'
import {
  type ClaimedEntry,
  type Commit,
  type CommittedEntry,
  type DoneEntry,
  isDone,
  LEDGER_VERSION,
  type LedgerEntry,
  type Method,
  parseEntry,
  type Problem,
  serializeEntry,
  type Submission,
  type SubmittedEntry,
  type SupersededEntry,
} from './ledger.ts'

/** Who claims, and for how long a claim lasts without being renewed. */
export interface ClaimOptions {
  readonly owner: string
  readonly leaseMs: number
  readonly logger: Logger
  /** Ends the claiming, not the claim: a worker that is told to stop still has to write down how far it came. */
  readonly signal: AbortSignal
  /** Ends what the claim writes. */
  readonly writes?: AbortSignal | undefined
  /** Wait for another worker's claim to end instead of leaving. */
  readonly wait?: boolean | undefined
  /** Called once when the waiting begins. */
  readonly onWait?: ((held: LedgerEntry) => void) | undefined
}

/** What is claimed. */
export interface ClaimSubject {
  readonly key: string
  readonly dataset: string
  readonly runId: string
  readonly target: string
  readonly method: Method
}

/** An entry as it stands in the store. */
export interface StoredEntry<E extends LedgerEntry = LedgerEntry> {
  readonly entry: E
  readonly etag: string
}

type Held = ClaimedEntry | SubmittedEntry
/** Written anew by each write of the claim. */
type Stamped = 'owner' | 'revision' | 'updatedAt' | 'leaseUntil'
type Next =
  | Omit<ClaimedEntry, Stamped>
  | Omit<SubmittedEntry, Stamped>
  | Omit<CommittedEntry, Stamped>
  | Omit<SupersededEntry, Stamped>

const WAIT_MS = 1_000
/** Writes whose answer was lost that are still known as our own. */
const KNOWN_REVISIONS = 16

export async function readEntry(store: ObjectStore, key: string, signal?: AbortSignal): Promise<StoredEntry | undefined> {
  try {
    const { bytes, etag } = await store.getBytes(key, { signal })
    return { entry: parseEntry(bytes, key), etag }
  } catch (error) {
    if (error instanceof NotFoundError) return undefined
    throw error
  }
}

/**
 * Claims a run: creates its ledger object when there is none, takes over one whose lease has ended. Of many workers at
 * once one gets it, since the store's conditional write lets one write.
 * @returns the claim, or the entry of a run that is committed or superseded already
 * @throws ConflictError `INGESTOR_RUN_CLAIMED`: another worker holds it (retry `safe`)
 */
export async function claimRun(store: ObjectStore, subject: ClaimSubject, options: ClaimOptions): Promise<Claim | DoneEntry> {
  let told = false
  for (;;) {
    options.signal.throwIfAborted()
    const stored = await readEntry(store, subject.key, options.signal)
    if (stored !== undefined && isDone(stored.entry)) return stored.entry
    const held = stored as StoredEntry<Held> | undefined
    if (held === undefined || leaseEnded(held.entry)) {
      const claim = await take(store, subject, options, held)
      if (claim !== undefined) return claim
      continue
    }
    if (options.wait !== true) throw heldByAnother(held.entry)
    if (!told) options.onWait?.(held.entry)
    told = true
    await sleep(Math.min(WAIT_MS, Math.max(50, Date.parse(held.entry.leaseUntil) - Date.now())), options.signal)
  }
}

/** True when nobody holds the claim any more; never for a run that is done. */
export function leaseEnded(entry: LedgerEntry, at: number = Date.now()): boolean {
  return !isDone(entry) && Date.parse(entry.leaseUntil) <= at
}

/** The claim when this worker was first; undefined when somebody else wrote meanwhile. */
async function take(
  store: ObjectStore,
  subject: ClaimSubject,
  options: ClaimOptions,
  found: StoredEntry<Held> | undefined,
): Promise<Claim | undefined> {
  const revision = randomUUID()
  const now = Date.now()
  const mine = {
    owner: options.owner,
    revision,
    updatedAt: new Date(now).toISOString(),
    leaseUntil: new Date(now + options.leaseMs).toISOString(),
  }
  // What was submitted stays submitted: whoever takes over must first find out what became of it. The next attempt
  // of what was only claimed gets a number of its own, so that nothing of the dead one is taken for ours.
  const { key, ...names } = subject
  const entry: Held =
    found === undefined
      ? { version: LEDGER_VERSION, ...names, state: 'claimed', attempt: 1, ...mine }
      : found.entry.state === 'submitted'
        ? { ...found.entry, ...mine }
        : { ...found.entry, ...mine, method: subject.method, attempt: found.entry.attempt + 1 }
  const body = serializeEntry(entry)
  const calls = { signal: options.signal, contentType: 'application/json' }
  const written = await (found === undefined
    ? store.putIfAbsent(key, body, calls)
    : store.putIfMatch(key, body, found.etag, calls))
  if (written.written) return new Claim(store, key, { entry, etag: written.etag }, options)
  // A repeated request meets what its first try wrote.
  const current = await readEntry(store, key, options.signal)
  if (current?.entry.revision === revision) return new Claim(store, key, { entry, etag: current.etag }, options)
  return undefined
}

function heldByAnother(entry: Held): ConflictError {
  const seconds = Math.max(0, Math.ceil((Date.parse(entry.leaseUntil) - Date.now()) / 1000))
  return new ConflictError(
    `run ${entry.runId} is being loaded by ${entry.owner} (${entry.state}); its claim ends in ${seconds} s unless it is renewed. ` +
      'Come back later, or wait with --wait',
    {
      code: 'INGESTOR_RUN_CLAIMED',
      retry: 'safe',
      retryAfterMs: seconds * 1000,
      context: { runId: entry.runId, owner: entry.owner },
    },
  )
}

/**
 * The right to load one run, renewed in the background while it is held. Each step is written under the condition that
 * nobody else has written meanwhile; once somebody has, the claim is lost for good, {@link signal} is aborted, and no
 * later step of ours can be written.
 */
export class Claim implements AsyncDisposable {
  readonly #store: ObjectStore
  readonly #key: string
  readonly #options: ClaimOptions
  readonly #lost = new AbortController()
  readonly #revisions: string[] = []
  #entry: LedgerEntry
  #etag: string
  #queue: Promise<unknown> = Promise.resolve()
  #timer: NodeJS.Timeout | undefined
  #ended = false

  constructor(store: ObjectStore, key: string, stored: StoredEntry<Held>, options: ClaimOptions) {
    this.#store = store
    this.#key = key
    this.#options = options
    this.#entry = stored.entry
    this.#etag = stored.etag
    this.#revisions.push(stored.entry.revision)
    this.#schedule()
  }

  get entry(): LedgerEntry {
    return this.#entry
  }

  /** Aborted with a ConflictError `INGESTOR_CLAIM_LOST` as soon as it is known that the claim is lost. */
  get signal(): AbortSignal {
    return this.#lost.signal
  }

  /** Throws when the claim is lost, or when its time has passed without a renewal: this process may have stood still. */
  assertHeld(): void {
    if (leaseEnded(this.#entry)) this.#lose('its lease ended before it could be renewed')
    this.#lost.signal.throwIfAborted()
  }

  /** Writes down the statement. Only after this may the engine be told to run it. */
  submitted(submission: Submission): Promise<void> {
    return this.#change((held) => ({ ...common(held), state: 'submitted', submission }))
  }

  /** The statement was never applied, and never will be: back to the start, as a new attempt. */
  restart(method: Method, problem?: Problem): Promise<void> {
    return this.#change((held) => ({
      ...common(held),
      state: 'claimed',
      method,
      attempt: held.attempt + 1,
      ...(problem === undefined ? {} : { problem }),
    }))
  }

  async committed(commit: Commit, assumed = false): Promise<CommittedEntry> {
    let committed: CommittedEntry | undefined
    await this.#change((held) => ({
      ...common(held),
      state: 'committed',
      committedAt: now(),
      commit,
      ...(held.state === 'submitted' ? { submission: held.submission } : {}),
      ...(assumed ? { assumed } : {}),
    }))
    this.#stop()
    if (this.#entry.state === 'committed') committed = this.#entry
    if (committed === undefined) throw new Error('the commit was not recorded')
    return committed
  }

  /** The run needs no loading any more: a later one takes the place of everything before it. */
  async superseded(by: string): Promise<void> {
    await this.#change((held) => ({ ...common(held), state: 'superseded', by }))
    this.#stop()
  }

  /** Gives the claim back, so that the next worker need not wait for the lease to end. What was submitted stays submitted. */
  async release(problem?: Problem): Promise<void> {
    if (this.#ended || this.#lost.signal.aborted) return
    await this.#change((held) => ({ ...held, ...(problem === undefined ? {} : { problem }) }), new Date(0))
    this.#stop()
  }

  /** Stops renewing. A claim that was neither committed nor given back ends by itself when its lease does. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop()
    await this.#queue
  }

  #stop(): void {
    this.#ended = true
    clearTimeout(this.#timer)
  }

  #schedule(): void {
    if (this.#ended) return
    this.#timer = setTimeout(() => void this.#renew(), this.#options.leaseMs / 3)
    this.#timer.unref()
  }

  async #renew(): Promise<void> {
    try {
      await this.#change((held) => held)
    } catch (error) {
      if (this.#ended) return
      this.#options.logger.warn({ error, key: this.#key }, 'the claim could not be renewed; trying again')
      if (leaseEnded(this.#entry)) this.#lose('its lease ended before it could be renewed', error)
    }
    this.#schedule()
  }

  /** One write after the other, each made from what the one before left: a renewal must not undo a step. */
  #change(make: (held: Held) => Next, leaseUntil?: Date): Promise<void> {
    const done = this.#queue.then(async () => {
      this.#lost.signal.throwIfAborted()
      if (this.#ended || isDone(this.#entry)) return
      await this.#write(make(this.#entry), leaseUntil)
    })
    this.#queue = done.catch(() => undefined)
    return done
  }

  async #write(next: Next, leaseUntil: Date | undefined): Promise<void> {
    const revision = randomUUID()
    const stamp = { owner: this.#options.owner, revision, updatedAt: now() }
    const lease = { leaseUntil: (leaseUntil ?? new Date(Date.now() + this.#options.leaseMs)).toISOString() }
    const entry: LedgerEntry =
      next.state === 'committed' || next.state === 'superseded' ? { ...next, ...stamp } : { ...next, ...stamp, ...lease }
    const body = serializeEntry(entry)
    this.#revisions.push(revision)
    if (this.#revisions.length > KNOWN_REVISIONS) this.#revisions.shift()
    for (;;) {
      const { writes: signal } = this.#options
      const written = await this.#store.putIfMatch(this.#key, body, this.#etag, { contentType: 'application/json', signal })
      if (written.written) return this.#keep(entry, written.etag)
      const current = await readEntry(this.#store, this.#key, signal)
      if (current?.entry.revision === revision) return this.#keep(entry, current.etag)
      if (current === undefined || !this.#revisions.includes(current.entry.revision)) {
        const who = current === undefined ? 'the ledger object is gone' : `${current.entry.owner} has taken it over`
        throw this.#lose(who)
      }
      // Our own earlier write, whose answer was lost on the way.
      this.#etag = current.etag
    }
  }

  #keep(entry: LedgerEntry, etag: string): void {
    this.#entry = entry
    this.#etag = etag
  }

  #lose(why: string, cause?: unknown): Error {
    if (!this.#lost.signal.aborted) {
      const { runId } = this.#entry
      this.#lost.abort(
        new ConflictError(`the claim of run ${runId} was lost: ${why}`, {
          code: 'INGESTOR_CLAIM_LOST',
          retry: 'safe',
          context: { runId },
          cause,
        }),
      )
    }
    this.#stop()
    return this.#lost.signal.reason as Error
  }
}

/** What every entry of a claim carries on: neither the statement, nor the lease, nor what went wrong before. */
function common(held: Held): Pick<Held, 'version' | 'dataset' | 'runId' | 'target' | 'method' | 'attempt'> {
  const { version, dataset, runId, target, method, attempt } = held
  return { version, dataset, runId, target, method, attempt }
}

const now = (): string => new Date().toISOString()
