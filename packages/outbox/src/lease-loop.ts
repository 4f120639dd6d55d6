import { ConflictError } from '@common-handlers/core'
import { Alarm, Patience } from './alarm.ts'
import type { BoundHandler } from './handler.ts'
import { Marks } from './marks.ts'
import { type ClaimMeta, type PendingEvent, readMeta, readPending } from './pending.ts'
import { OwnConnection } from './own-connection.ts'
import { literal } from './names.ts'
import { type PoolClient, textAnswers, textRows } from './pool.ts'
import { type Finished, finishedJson } from './repository.ts'
import { steps } from './steps.ts'
import { type Outcome, RunContext, withLimit } from './run.ts'
import type { LoopContext } from './worker.ts'

/** Events claimed together. */
interface Claim {
  readonly id: string
  readonly since: number
  readonly open: Map<bigint, string | undefined>
  gone: boolean
  keptAt: number
  /** It still names what has left it. */
  stale: boolean
}

/** One event of a key at a time: those that come after it. */
interface Turn {
  readonly item: Item
  readonly after: Item[]
}

interface Item {
  readonly event: PendingEvent
  readonly handler: BoundHandler
  readonly claim: Claim
  durationMs?: number | undefined
}

/** A claim that lasts longer gives back what is done of it, so that its keys are free. */
const KEEP_MS = 250
const ERROR_PAUSE_MS = 250

/** Runs leased events: claims ahead, runs side by side, settles and claims again in one statement. */
export class LeaseLoop {
  readonly #context: LoopContext
  readonly #types: readonly string[]
  readonly #marks = new Marks()
  readonly #alarm = new Alarm()
  readonly #patience = new Patience()
  readonly #soloAlarm = new Alarm()
  readonly #claims = new Map<string, Claim>()
  readonly #ready: Item[] = []
  /** By type: waits for a place among the events of its type. */
  readonly #limited = new Map<string, Item[]>()
  readonly #keys = new Map<string, Turn>()
  readonly #running = new Map<string, number>()
  readonly #contexts = new Set<RunContext>()
  readonly #settled: { readonly item: Item; readonly outcome: Outcome }[] = []
  #active = 0
  #inside = false
  readonly #connection: OwnConnection
  #dueMs: number | undefined
  #stopping = false
  #solo: Promise<void> = Promise.resolve()
  #reconcileAt: number | undefined

  constructor(context: LoopContext, types: readonly string[]) {
    this.#context = context
    this.#connection = new OwnConnection(context.connection)
    this.#types = types
  }

  get contexts(): Iterable<RunContext> {
    return this.#contexts
  }

  wake(): void {
    this.#marks.forget()
    this.#alarm.ring()
  }

  /** Claims no more; what was not begun is given back. Resolves in `run`. */
  stop(): void {
    this.#stopping = true
    for (const item of this.#ready.splice(0)) this.#release(item)
    for (const waiting of this.#limited.values()) for (const item of waiting.splice(0)) this.#release(item)
    for (const { after } of this.#keys.values()) for (const item of after.splice(0)) this.#release(item)
    this.#alarm.ring()
  }

  /** What this worker had begun was taken over. */
  lose(): void {
    const reason = new ConflictError('another worker took over: this one was not heard of', { code: 'OUTBOX_LEASE_LOST' })
    this.#drop()
    for (const context of this.#contexts) context.stop(reason, { verdict: 'release' })
    this.wake()
  }

  #drop(): void {
    for (const claim of this.#claims.values()) claim.gone = true
    this.#claims.clear()
    this.#settled.length = 0
    this.#ready.length = 0
    this.#limited.clear()
    this.#keys.clear()
    this.#soloAlarm.ring()
  }

  async run(): Promise<void> {
    const { gate, options } = this.#context
    for (;;) {
      // A suspect that runs is settled where it was claimed.
      if (this.#stopping) await this.#solo
      if (this.#stopping && this.#held() === 0) break
      if (!this.#inside && gate.closing && !this.#stopping) {
        await gate.enter()
        this.#inside = true
      }
      const room = Math.min(options.batchSize, 2 * options.batchSize - this.#held())
      const claiming = !this.#stopping && !gate.closing && room >= Math.min(options.batchSize, this.#held() + 1)
      const full = this.#marks.full
      // Asked for while there was nothing a moment ago: only when somebody calls, or the time has come.
      const wanted = claiming && (this.#dueMs === undefined || full)
      const keepIn = this.#keepIn()
      if (!wanted && this.#settled.length === 0 && keepIn > 0) {
        if (this.#held() === 0) this.#leave()
        const idle = this.#held() === 0 && this.#active === 0
        this.#context.setIdle(this, idle)
        if (idle) this.#connection.release()
        const pause = Math.min(this.#patience.next(options.pollInterval), this.#dueMs ?? Infinity)
        const rung = await this.#alarm.sleep(Math.min(pause, keepIn))
        if (!rung && pause <= keepIn) this.#marks.forget()
        continue
      }
      if (wanted && !this.#inside) {
        await gate.enter()
        this.#inside = true
      }
      await this.#step(wanted ? room : 0, full, false)
    }
    this.#leave()
    this.#context.setIdle(this, false)
    this.#connection.release()
  }

  /** Suspects, one at a time; nothing else runs in this process meanwhile. */
  runSolo(): Promise<void> {
    return (this.#solo = this.#runSuspects())
  }

  async #runSuspects(): Promise<void> {
    for (;;) {
      if (this.#stopping) return
      const found = await this.#step(1, true, true)
      if (found === 0) return
      while (this.#held() > 0 && this.#settled.length === 0) await this.#soloAlarm.sleep(1000)
      while (this.#settled.length > 0) await this.#step(0, false, false)
    }
  }

  /** Claimed and not settled. */
  #held(): number {
    let held = 0
    for (const claim of this.#claims.values()) held += claim.open.size
    return held
  }

  /** Milliseconds until a claim is to give back what has left it. */
  #keepIn(): number {
    let since = Infinity
    for (const claim of this.#claims.values()) if (claim.stale) since = Math.min(since, claim.keptAt)
    return since === Infinity ? Infinity : since + KEEP_MS - performance.now()
  }

  #leave(): void {
    if (!this.#inside) return
    this.#inside = false
    this.#context.gate.leave()
  }

  async #step(total: number, full: boolean, solo: boolean): Promise<number> {
    const { names, presence } = this.#context
    const settled = this.#settled.splice(0)
    const done: bigint[] = []
    const doneClaims: string[] = []
    const failed: Finished[] = []
    // By claim: an event whose claim is gone may have been claimed once more meanwhile.
    const leaving = new Map<Claim, Set<bigint>>()
    for (const { item, outcome } of settled) {
      const { event, claim } = item
      const ids = leaving.get(claim)
      if (ids === undefined) leaving.set(claim, new Set([event.id]))
      else ids.add(event.id)
      if (outcome.verdict === 'done') {
        done.push(event.id)
        doneClaims.push(claim.id)
      } else failed.push({ id: event.id, claim: claim.id, attempts: event.failed, ...outcome })
    }
    const closed: string[] = []
    const kept: Claim[] = []
    const now = performance.now()
    for (const [claim, ids] of leaving) {
      if (claim.open.size === ids.size) closed.push(claim.id)
      else claim.stale = true
    }
    for (const claim of this.#claims.values())
      if (claim.stale && now - claim.keptAt >= KEEP_MS && claim.open.size > (leaving.get(claim)?.size ?? 0)) kept.push(claim)
    const limits = this.#types.map((type) => this.#limitOf(type))
    const began = performance.now()
    let rows: (string | null)[][]
    let worker: bigint
    try {
      await presence.ready()
      worker = presence.id
      const client = await this.#connection.get()
      if (this.#reconcileAt !== undefined && now > this.#reconcileAt) await this.#reconcile(client)
      if (settled.length > 0) steps.onStep?.('lease settling')
      const values = [
        done,
        doneClaims,
        failed.length === 0 ? null : finishedJson(failed),
        closed,
        kept.length === 0 ? null : keptJson(kept, leaving),
        worker,
        this.#types,
        limits,
        total,
        full,
        ...this.#marks.parameters,
        solo,
      ]
      // Behind the locks it looks again at what has been committed meanwhile, whatever isolation the login comes with.
      const answers = await textAnswers(
        client,
        `BEGIN ISOLATION LEVEL READ COMMITTED; SELECT * FROM ${names.schema}.step(${values.map(literal).join(', ')}); COMMIT`,
      )
      rows = (answers[1]?.rows ?? []) as (string | null)[][]
    } catch (error) {
      // It is not known what of it was done. What is settled twice is settled once; what was claimed is found later.
      this.#connection.release(true)
      this.#settled.unshift(...settled.filter(({ item }) => !item.claim.gone))
      this.#reconcileAt ??= now + 5000
      this.#context.onError(error)
      // The worker is to stop and reaches nobody: the others free what it held.
      if (presence.gaveUp) this.#drop()
      await new Promise((resolve) => setTimeout(resolve, ERROR_PAUSE_MS))
      return 0
    }
    if (settled.length > 0) steps.onStep?.('lease settled')
    for (const claim of kept) {
      claim.keptAt = now
      claim.stale = false
    }
    for (const [claim, ids] of leaving) for (const id of ids) claim.open.delete(id)
    for (const id of closed) this.#claims.delete(id)
    const lost = lostOf(rows[0])
    if (lost.length > 0) {
      rows.shift()
      for (const id of lost) this.#forget(id)
    }
    for (const { item, outcome } of settled)
      if (!lost.includes(item.claim.id)) this.#context.onSettled(item.event, outcome, item.durationMs)
    // Taken over meanwhile, the claim of this answer is as well.
    if (total === 0 || presence.id !== worker) return 0
    const meta = readMeta(rows[0])
    if (!solo) this.#marks.note(meta, full, performance.now() - began)
    this.#take(meta, rows)
    const count = rows.length - 1
    if (!solo) {
      if (count > 0) {
        this.#patience.lose()
        this.#context.setIdle(this, false)
      }
      this.#dueMs = count === 0 && full ? (meta.dueMs ?? Infinity) : undefined
      if (count === 0 && !full) this.#marks.forget()
      if (meta.suspects) this.#context.onSuspects()
    }
    return count
  }

  #take(meta: ClaimMeta, rows: readonly (readonly (string | null)[])[]): void {
    if (meta.claim === null) return
    const now = performance.now()
    const claim: Claim = { id: meta.claim, since: now, keptAt: now, open: new Map(), gone: false, stale: false }
    steps.onStep?.('lease claimed')
    this.#claims.set(claim.id, claim)
    for (const row of rows.slice(1)) {
      const event = readPending(row)
      const handler = this.#context.handlers.get(event.type)
      claim.open.set(event.id, event.key)
      const item: Item = { event, claim, handler: handler as BoundHandler }
      if (handler === undefined || this.#stopping) this.#release(item)
      else this.#ready.push(item)
    }
    this.#dispatch()
  }

  #dispatch(): void {
    const { maxParallel } = this.#context.options
    let next = 0
    for (; next < this.#ready.length && this.#active < maxParallel; next++) {
      const item = this.#ready[next]
      if (item !== undefined) this.#offer(item)
    }
    this.#ready.splice(0, next)
  }

  /** Begins it, or lets it wait for its key or its type. */
  #offer(item: Item): void {
    const { key, type } = item.event
    if (key !== undefined) {
      const turn = this.#keys.get(key)
      if (turn !== undefined) {
        turn.after.push(item)
        return
      }
      this.#keys.set(key, { item, after: [] })
    }
    const waiting = this.#limited.get(type)
    if (this.#mayStart(item)) this.#start(item)
    else if (waiting === undefined) this.#limited.set(type, [item])
    else waiting.push(item)
  }

  #mayStart({ event: { type }, handler }: Item): boolean {
    if ((this.#running.get(type) ?? 0) >= handler.concurrency) return false
    if (this.#context.rates.take(type)) return true
    this.#context.rates.later(type, () => this.#admit())
    return false
  }

  #start(item: Item): void {
    const { type } = item.event
    if (item.claim.gone) return this.#end(item, { verdict: 'release' })
    this.#running.set(type, (this.#running.get(type) ?? 0) + 1)
    this.#active += 1
    void this.#execute(item)
  }

  async #execute(item: Item): Promise<void> {
    const context = new RunContext(item.event, item.handler, this.#context.database)
    this.#contexts.add(context)
    const outcome = await this.#context.run(item.event, context)
    item.durationMs = this.#context.durationOf(context)
    this.#contexts.delete(context)
    const forgotten = context.end()
    if (forgotten.length > 0)
      await this.#context.takeBack(item.handler.type, forgotten).catch((error: unknown) => this.#context.onError(error))
    this.#active -= 1
    this.#running.set(item.event.type, (this.#running.get(item.event.type) ?? 1) - 1)
    this.#end(item, withLimit(outcome, item.event, item.handler, this.#context.options.backoff))
    this.#admit()
    this.#dispatch()
  }

  /** Those that waited for a place among the events of their type; their keys are their own already. */
  #admit(): void {
    for (const waiting of this.#limited.values())
      while (this.#active < this.#context.options.maxParallel) {
        const [item] = waiting
        if (item === undefined || !this.#mayStart(item)) break
        waiting.shift()
        this.#start(item)
      }
  }

  #end(item: Item, outcome: Outcome): void {
    const { key } = item.event
    this.#settle(item, outcome)
    const turn = key === undefined ? undefined : this.#keys.get(key)
    // After a claim was lost its key may be another's here.
    if (key === undefined || turn?.item !== item) return
    this.#keys.delete(key)
    const passed = outcome.verdict === 'done' || outcome.verdict === 'dead' || outcome.verdict === 'discard'
    for (const next of turn.after) {
      // A key that is blocked is blocked: what comes after goes back, and is claimed again behind it.
      if (!passed || this.#stopping) this.#settle(next, { verdict: 'release' })
      else this.#offer(next)
    }
  }

  #release(item: Item): void {
    this.#settle(item, { verdict: 'release' })
  }

  #settle(item: Item, outcome: Outcome): void {
    if (item.claim.gone) {
      this.#context.onSettled(item.event, { verdict: 'release', reason: 'lost' }, item.durationMs)
      return
    }
    this.#settled.push({ item, outcome })
    this.#alarm.ring()
    this.#soloAlarm.ring()
  }

  /** The claim was taken over: its handlers are told, what they do does not count. */
  #forget(id: string): void {
    const claim = this.#claims.get(id)
    this.#claims.delete(id)
    if (claim === undefined) return
    claim.gone = true
    const reason = new ConflictError('another worker took over', { code: 'OUTBOX_LEASE_LOST' })
    for (const context of this.#contexts) if (claim.open.has(context.event.id)) context.stop(reason, { verdict: 'release' })
  }

  #limitOf(type: string): number {
    const handler = this.#context.handlers.get(type)
    const { batchSize, maxParallel } = this.#context.options
    if (handler === undefined) return 0
    if (handler.concurrency >= maxParallel && handler.ratePerSecond === Infinity) return batchSize
    const waiting = this.#limited.get(type)?.length ?? 0
    return Math.max(0, Math.min(batchSize, 2 * handler.concurrency, Math.ceil(handler.ratePerSecond)) - waiting)
  }

  /** Claims of which the answer was lost. */
  async #reconcile(client: PoolClient): Promise<void> {
    this.#reconcileAt = undefined
    const { names, presence } = this.#context
    await textRows(
      client,
      `DELETE FROM ${names.schema}.claim WHERE worker_id = $1 AND effect = 'lease' AND id <> ALL ($2)
        AND begun_at < clock_timestamp() - interval '4 seconds'`,
      [presence.id, [...this.#claims.keys()]],
    )
  }
}

function lostOf(row: readonly (string | null)[] | undefined): readonly string[] {
  const meta = row?.[9]
  if (meta === null || meta === undefined || !meta.includes('"lost"')) return []
  return (JSON.parse(meta) as { readonly lost?: readonly string[] }).lost ?? []
}

function keptJson(kept: readonly Claim[], leaving: ReadonlyMap<Claim, ReadonlySet<bigint>>): string {
  const items = kept.map((claim) => {
    const left = [...claim.open].filter(([id]) => leaving.get(claim)?.has(id) !== true)
    const keys = new Set(left.flatMap(([, key]) => (key === undefined ? [] : [key])))
    return `{"claim":${claim.id},"ids":[${left.map(([id]) => id).join(',')}],"keys":${JSON.stringify([...keys])}}`
  })
  return `[${items.join(',')}]`
}
