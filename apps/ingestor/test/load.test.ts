import { ConnectionError, DataError, type HandlerError, silentLogger } from '@common-handlers/core'
import { ledgerKey, type Manifest } from '@common-handlers/dataset'
import { MemoryStore, type ObjectStore } from '@common-handlers/storage'
import { describe, expect, it } from 'vitest'
import { claimRun, Claim, readEntry } from '../src/claim.ts'
import type { LedgerEntry, Method } from '../src/ledger.ts'
import { type LoadContext, type LoadResult, loadRun, supersedeRun } from '../src/load.ts'
import { FakeEngine, type Step, Warehouse } from './fake-engine.ts'
import { writeRun } from './run-files.ts'

/** The process dies here: nothing of it runs any more, its claim included. */
class Killed extends Error {}

interface World {
  readonly store: MemoryStore
  readonly warehouse: Warehouse
  readonly run: Manifest
}

async function newWorld(): Promise<World> {
  const store = new MemoryStore()
  return { store, warehouse: new Warehouse(), run: await writeRun(store) }
}

const TARGET = 'lake.audit.audit_log'
const keyOf = (run: Manifest): string => ledgerKey(run.dataset, TARGET, run.runId)
const requestOf = (run: Manifest, method: Method = 'append') =>
  ({ manifest: run, method, ledgerKey: keyOf(run), ledgerName: TARGET }) as const

async function entryOf({ store, run }: World): Promise<LedgerEntry | undefined> {
  return (await readEntry(store, keyOf(run)))?.entry
}

let workers = 0

function contextOf(world: World, engine: FakeEngine, options: Partial<LoadContext> = {}): LoadContext {
  return {
    store: world.store,
    engine,
    logger: silentLogger,
    signal: new AbortController().signal,
    owner: `worker ${++workers}`,
    leaseMs: 60_000,
    budgetMs: 5_000,
    settleMs: 1_000,
    pauseMs: 1,
    verify: () => Promise.resolve(),
    ...options,
  }
}

const load = (world: World, engine = new FakeEngine(world.warehouse), options: Partial<LoadContext> = {}): Promise<LoadResult> =>
  loadRun(requestOf(world.run), contextOf(world, engine, options))

/** A store that stops answering when its worker is killed, as seen from that worker. */
function mortal(store: ObjectStore): { store: ObjectStore; kill(): void } {
  let dead = false
  const proxy = new Proxy(store, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name)
      if (typeof value !== 'function') return value
      return (...given: unknown[]) => {
        if (dead) throw new Killed('killed')
        return (value as (...args: unknown[]) => unknown).apply(target, given)
      }
    },
  })
  return { store: proxy, kill: () => void (dead = true) }
}

/** The lease of a killed worker ends in time; the test need not wait for it. */
async function endLease({ store, run }: World): Promise<void> {
  const stored = await readEntry(store, keyOf(run))
  if (stored === undefined || !('leaseUntil' in stored.entry)) return
  await store.put(keyOf(run), JSON.stringify({ ...stored.entry, leaseUntil: new Date(0).toISOString() }))
}

/** A worker that is killed at a step; what it has asked of the warehouse stays. */
async function killAt(world: World, step: Step, also: (engine: FakeEngine) => void = () => undefined): Promise<void> {
  const { store, kill } = mortal(world.store)
  const engine = new FakeEngine(world.warehouse)
  engine.at = (at) => {
    if (at !== step) return
    also(engine)
    kill()
    throw new Killed('killed')
  }
  await expect(load({ ...world, store: store as MemoryStore }, engine)).rejects.toThrow(Killed)
  await endLease(world)
}

const loaded = (world: World): string[] => (world.warehouse.table ?? []).map((commit) => commit.runId)

describe('one worker', () => {
  it('loads a run, writes down how, and leaves nothing beside the table', async () => {
    const here = await newWorld()
    const result = await load(here)
    expect(result).toMatchObject({ state: 'committed', loaded: true, rows: 3, attempts: 1, snapshotId: 's-q0' })
    expect(await entryOf(here)).toMatchObject({
      state: 'committed',
      commit: { snapshotId: 's-q0', rows: 3 },
      submission: { queryId: 'q0' },
    })
    expect(here.warehouse.stages.size).toBe(0)
  })

  it('does nothing the second time', async () => {
    const here = await newWorld()
    await load(here)
    const again = new FakeEngine(here.warehouse)
    expect(await load(here, again)).toMatchObject({ state: 'committed', loaded: false })
    expect(again.steps).toEqual([])
    expect(loaded(here)).toEqual([here.run.runId])
  })

  it('writes the statement down before it runs it', async () => {
    const here = await newWorld()
    const engine = new FakeEngine(here.warehouse)
    let written: LedgerEntry | undefined
    engine.at = async (step) => {
      if (step === 'follow') written = await entryOf(here)
    }
    await load(here, engine)
    expect(written).toMatchObject({ state: 'submitted', submission: { queryId: 'q0' } })
  })

  it('needs no statement for a run without rows', async () => {
    const here = await newWorld()
    const run = await writeRun(here.store, { files: [], previousRunId: here.run.runId })
    const engine = new FakeEngine(here.warehouse)
    expect(await load({ ...here, run }, engine)).toMatchObject({ state: 'committed', rows: 0, snapshotId: undefined })
    expect(engine.steps).not.toContain('submit')
    expect(here.warehouse.table).toEqual([])
  })

  it('checks the files under the claim and records why it stopped', async () => {
    const here = await newWorld()
    const broken = new DataError('part-00000.csv.gz differs', { code: 'INGESTOR_FILE_CHECKSUM' })
    const engine = new FakeEngine(here.warehouse)
    await expect(load(here, engine, { verify: () => Promise.reject(broken) })).rejects.toThrow(broken)
    expect(engine.steps).not.toContain('prepare')
    expect(await entryOf(here)).toMatchObject({ state: 'claimed', problem: { code: 'INGESTOR_FILE_CHECKSUM' } })
    // The claim was given back: nobody has to wait.
    expect(await load(here)).toMatchObject({ state: 'committed', attempts: 2 })
  })
})

describe('a worker that is killed', () => {
  const steps: readonly Step[] = ['prepare', 'stage', 'submit', 'follow', 'applied', 'settle', 'unstage']
  it.each(steps)('at %s: the next one leaves the run in the table once', async (step) => {
    const here = await newWorld()
    if (step === 'unstage') {
      await killAt(here, step).catch(() => undefined)
    } else await killAt(here, step)
    expect(await load(here)).toMatchObject({ state: 'committed', rows: 3 })
    expect(loaded(here)).toEqual([here.run.runId])
    expect(here.warehouse.stages.size).toBe(0)
  })

  it('while its statement runs: the next one waits for it and does not load again', async () => {
    const here = await newWorld()
    await killAt(here, 'follow', () => here.warehouse.begin('q0'))
    const next = new FakeEngine(here.warehouse)
    expect(await load(here, next)).toMatchObject({ state: 'committed', snapshotId: 's-q0' })
    expect(next.steps).not.toContain('submit')
    expect(loaded(here)).toEqual([here.run.runId])
  })

  it('is waited for as long as its lease lasts', async () => {
    const here = await newWorld()
    const { store, kill } = mortal(here.store)
    const engine = new FakeEngine(here.warehouse)
    engine.at = (step) => {
      if (step !== 'submit') return
      kill()
      throw new Killed('killed')
    }
    await expect(load({ ...here, store: store as MemoryStore }, engine)).rejects.toThrow(Killed)
    await expect(load(here)).rejects.toMatchObject({ code: 'INGESTOR_RUN_CLAIMED', outcome: 'conflict', retry: 'safe' })
  })
})

describe('a worker that was taken for dead', () => {
  it('before its statement was written down: it can write nothing and runs nothing', async () => {
    const here = await newWorld()
    const zombie = new FakeEngine(here.warehouse)
    zombie.at = async (step) => {
      if (step !== 'submit') return
      await endLease(here)
      expect(await load(here)).toMatchObject({ state: 'committed' })
    }
    await expect(load(here, zombie)).rejects.toMatchObject({ code: 'INGESTOR_CLAIM_LOST' })
    expect(zombie.steps).not.toContain('follow')
    expect(loaded(here)).toEqual([here.run.runId])
  })

  it('after it: its statement can no longer begin', async () => {
    const here = await newWorld()
    const zombie = new FakeEngine(here.warehouse)
    zombie.at = async (step) => {
      if (step !== 'follow') return
      await endLease(here)
      expect(await load(here)).toMatchObject({ state: 'committed', attempts: 2 })
    }
    await expect(load(here, zombie)).rejects.toMatchObject({ code: 'INGESTOR_CLAIM_LOST' })
    expect(loaded(here)).toEqual([here.run.runId])
    expect(here.warehouse.statements.get('q0')?.state).not.toBe('applied')
  })

  it('stands still for longer than its lease and runs nothing when it wakes', async () => {
    const here = await newWorld()
    const zombie = new FakeEngine(here.warehouse)
    const { store } = here
    // The write of the statement takes as long as the lease: whoever looks afterwards may take the run over.
    const slow = new Proxy(store, {
      get(target, name) {
        if (name !== 'putIfMatch') return bound(target, name)
        return async (...given: Parameters<ObjectStore['putIfMatch']>) => {
          const answer = await target.putIfMatch(...given)
          await new Promise((resolve) => setTimeout(resolve, 80))
          return answer
        }
      },
    })
    await expect(load({ ...here, store: slow }, zombie, { leaseMs: 60 })).rejects.toMatchObject({ code: 'INGESTOR_CLAIM_LOST' })
    expect(zombie.steps).not.toContain('follow')
  })
})

const bound = (target: object, name: string | symbol): unknown => {
  const value: unknown = Reflect.get(target, name)
  return typeof value === 'function' ? (value as (...args: unknown[]) => unknown).bind(target) : value
}

describe('two workers at once', () => {
  it('one loads, the other leaves', async () => {
    const here = await newWorld()
    const results = await Promise.allSettled(Array.from({ length: 8 }, () => load(here)))
    const winners = results.filter((result) => result.status === 'fulfilled' && result.value.loaded)
    expect(winners).toHaveLength(1)
    for (const result of results) {
      if (result.status === 'rejected') expect(result.reason).toMatchObject({ code: 'INGESTOR_RUN_CLAIMED' })
    }
    expect(loaded(here)).toEqual([here.run.runId])
  })

  it('or waits and finds it done', async () => {
    const here = await newWorld()
    const results = await Promise.all(Array.from({ length: 4 }, () => load(here, undefined, { wait: true })))
    expect(results.filter((result) => result.loaded)).toHaveLength(1)
    expect(results.every((result) => result.state === 'committed')).toBe(true)
    expect(loaded(here)).toEqual([here.run.runId])
  })
})

describe('the claim', () => {
  const subject = (run: Manifest) => ({
    key: keyOf(run),
    dataset: run.dataset,
    runId: run.runId,
    target: TARGET,
    method: 'append' as const,
  })
  const claimOptions = { owner: 'w', leaseMs: 90, logger: silentLogger, signal: new AbortController().signal }

  it('is renewed while it is held', async () => {
    const here = await newWorld()
    const claim = await claimRun(here.store, subject(here.run), claimOptions)
    if (!(claim instanceof Claim)) throw new Error('not claimed')
    await using _ = claim
    await new Promise((resolve) => setTimeout(resolve, 250))
    await expect(claimRun(here.store, subject(here.run), { ...claimOptions, owner: 'other' })).rejects.toMatchObject({
      code: 'INGESTOR_RUN_CLAIMED',
    })
    claim.assertHeld()
  })

  it('is lost, and says so, when another one has written', async () => {
    const here = await newWorld()
    const claim = await claimRun(here.store, subject(here.run), claimOptions)
    if (!(claim instanceof Claim)) throw new Error('not claimed')
    await using _ = claim
    await endLease(here)
    await using other = (await claimRun(here.store, subject(here.run), { ...claimOptions, owner: 'other' })) as Claim
    await expect(claim.submitted({ queryId: 'q', submittedAt: new Date().toISOString() })).rejects.toMatchObject({
      code: 'INGESTOR_CLAIM_LOST',
    })
    expect(claim.signal.aborted).toBe(true)
    expect(other.entry.attempt).toBe(2)
  })

  it('knows its own write whose answer was lost', async () => {
    const here = await newWorld()
    let lose = true
    const store = new Proxy(here.store, {
      get(target, name) {
        if (name !== 'putIfMatch') return bound(target, name)
        return async (...given: Parameters<ObjectStore['putIfMatch']>) => {
          const answer = await target.putIfMatch(...given)
          if (!lose) return answer
          lose = false
          // What a repeated request meets: its own first try.
          return { written: false }
        }
      },
    })
    await using claim = (await claimRun(store, subject(here.run), { ...claimOptions, leaseMs: 60_000 })) as Claim
    await claim.submitted({ queryId: 'q', submittedAt: new Date().toISOString() })
    expect((await claim.committed({ rows: 3 })).state).toBe('committed')
  })

  it('refuses an entry that a newer ingestor wrote', async () => {
    const here = await newWorld()
    await here.store.put(keyOf(here.run), JSON.stringify({ version: 2, state: 'dreaming' }))
    await expect(load(here)).rejects.toMatchObject({ code: 'INGESTOR_LEDGER_NEWER' })
  })
})

describe('a statement that fails', () => {
  const lost = (): HandlerError =>
    new ConnectionError('the server was restarted', { code: 'TRINO_QUERY_LOST', retry: 'if-idempotent' })

  it('for a reason that may pass: another attempt, after looking up the first', async () => {
    const here = await newWorld()
    const engine = new FakeEngine(here.warehouse)
    let failed = false
    engine.at = (step) => {
      if (step !== 'follow' || failed) return
      failed = true
      throw lost()
    }
    expect(await load(here, engine)).toMatchObject({ state: 'committed', attempts: 2 })
    expect(loaded(here)).toEqual([here.run.runId])
  })

  it('whose answer was lost after it was applied: not loaded again', async () => {
    const here = await newWorld()
    const engine = new FakeEngine(here.warehouse)
    engine.at = (step) => {
      if (step === 'applied') throw lost()
    }
    expect(await load(here, engine)).toMatchObject({ state: 'committed', attempts: 1 })
    expect(loaded(here)).toEqual([here.run.runId])
  })

  it('for good: the claim is given back, the statement is not written down any more', async () => {
    const here = await newWorld()
    const engine = new FakeEngine(here.warehouse)
    engine.at = (step) => {
      if (step === 'follow') throw new DataError('no number', { code: 'TRINO_INVALID_CAST_ARGUMENT' })
    }
    await expect(load(here, engine)).rejects.toMatchObject({ code: 'TRINO_INVALID_CAST_ARGUMENT' })
    expect(await entryOf(here)).toMatchObject({ state: 'claimed', problem: { code: 'TRINO_INVALID_CAST_ARGUMENT' } })
    expect(here.warehouse.stages.size).toBe(0)
    expect(await load(here)).toMatchObject({ state: 'committed' })
  })

  it('stops trying when the budget is used up', async () => {
    const here = await newWorld()
    const engine = new FakeEngine(here.warehouse)
    engine.at = (step) => {
      if (step === 'follow') throw lost()
    }
    await expect(load(here, engine, { budgetMs: 50 })).rejects.toMatchObject({ code: 'TRINO_QUERY_LOST' })
    expect(engine.steps.filter((step) => step === 'follow').length).toBeGreaterThan(1)
  })

  it('waits for a server that cannot say yet what became of it', async () => {
    const here = await newWorld()
    const engine = new FakeEngine(here.warehouse)
    let asked = 0
    engine.at = (step) => {
      if (step === 'applied') throw lost()
      if (step === 'settle' && asked++ === 0) throw new ConnectionError('starting', { code: 'TRINO_UNREACHABLE', retry: 'safe' })
    }
    expect(await load(here, engine)).toMatchObject({ state: 'committed', attempts: 1 })
    expect(asked).toBe(2)
  })
})

describe('rows that do not agree', () => {
  it('are taken back, and the run is not committed', async () => {
    const here = await newWorld()
    const engine = new FakeEngine(here.warehouse)
    engine.arrives = 2
    await expect(load(here, engine)).rejects.toMatchObject({
      code: 'INGESTOR_ROWS_DIFFER',
      context: { expected: 3, arrived: 2, undone: true },
    })
    expect(loaded(here)).toEqual([])
    expect(await entryOf(here)).toMatchObject({ state: 'claimed', problem: { code: 'INGESTOR_ROWS_DIFFER' } })
  })

  it('stay when somebody has written since, and the ledger keeps the statement', async () => {
    const here = await newWorld()
    const engine = new FakeEngine(here.warehouse)
    engine.arrives = 2
    engine.at = (step) => {
      if (step === 'applied') here.warehouse.table?.push({ runId: 'another', rows: 1, snapshotId: 's-other' })
    }
    await expect(load(here, engine)).rejects.toMatchObject({ context: { undone: false } })
    expect(await entryOf(here)).toMatchObject({ state: 'submitted' })
  })
})

describe('an interrupt', () => {
  it('in the middle: what became of the statement is found out before the worker leaves', async () => {
    const here = await newWorld()
    const stop = new AbortController()
    const engine = new FakeEngine(here.warehouse)
    engine.at = (step) => {
      if (step === 'applied') {
        stop.abort(new Error('stopped by SIGTERM'))
        throw stop.signal.reason
      }
    }
    expect(await load(here, engine, { signal: stop.signal })).toMatchObject({ state: 'committed' })
  })

  it('before the statement has begun: the claim is given back at once', async () => {
    const here = await newWorld()
    const stop = new AbortController()
    const engine = new FakeEngine(here.warehouse)
    engine.at = (step) => {
      if (step === 'follow') stop.abort(new Error('stopped by SIGTERM'))
    }
    await expect(load(here, engine, { signal: stop.signal })).rejects.toThrow('stopped by SIGTERM')
    expect(here.warehouse.stages.size).toBe(0)
    expect(await load(here)).toMatchObject({ state: 'committed' })
    expect(loaded(here)).toEqual([here.run.runId])
  })
})

describe('a run that a later one replaces', () => {
  it('is marked, and nobody can load it any more', async () => {
    const here = await newWorld()
    expect(await supersedeRun(requestOf(here.run), 'later', contextOf(here, new FakeEngine(here.warehouse)))).toMatchObject({
      state: 'superseded',
    })
    expect(await load(here)).toMatchObject({ state: 'superseded', loaded: false })
    expect(loaded(here)).toEqual([])
  })

  it('whose statement still runs is brought to its end first', async () => {
    const here = await newWorld()
    await killAt(here, 'follow', () => here.warehouse.begin('q0'))
    expect(await supersedeRun(requestOf(here.run), 'later', contextOf(here, new FakeEngine(here.warehouse)))).toMatchObject({
      state: 'committed',
    })
    expect(here.warehouse.statements.get('q0')?.state).toBe('applied')
  })

  it('is left alone while another worker is at it', async () => {
    const here = await newWorld()
    const engine = new FakeEngine(here.warehouse)
    engine.at = async (step) => {
      if (step !== 'submit') return
      await expect(
        supersedeRun(requestOf(here.run), 'later', contextOf(here, new FakeEngine(here.warehouse))),
      ).rejects.toMatchObject({
        code: 'INGESTOR_RUN_CLAIMED',
      })
    }
    expect(await load(here, engine)).toMatchObject({ state: 'committed' })
  })
})
