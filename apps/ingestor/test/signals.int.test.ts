import { ledgerKey } from '@common-handlers/dataset'
import { describeWith } from '@common-handlers/testkit/vitest'
import { expect, it } from 'vitest'
import { readEntry } from '../src/claim.ts'
import type { LedgerEntry } from '../src/ledger.ts'
import { type GateRequest, startHttpGate } from './http-gate.ts'
import { isLedger, isLoad, nthDescribe, nthGet } from './load-requests.ts'
import { call, start } from './program.ts'
import { auditRow, auditRows, writeRun } from './run-files.ts'
import { type TrinoWorld, trinoWorld } from './trino-world.ts'

interface Phase {
  readonly name: string
  readonly server: 'trino' | 's3'
  /** The request at which the process stands still: asked for each, in their order. */
  readonly hold: () => (request: GateRequest) => boolean
  /** What the ledger has of the run at that moment. */
  readonly state: LedgerEntry['state'] | undefined
}

const phases: readonly Phase[] = [
  { name: 'before it claims the run', server: 's3', hold: () => (request) => isLedger(request, 'claimed'), state: undefined },
  { name: 'with the run claimed', server: 'trino', hold: () => nthDescribe(2), state: 'claimed' },
  { name: 'with the table over the files made', server: 'trino', hold: () => isLoad, state: 'claimed' },
  {
    name: 'with the statement registered',
    server: 's3',
    hold: () => (request) => isLedger(request, 'submitted'),
    state: 'claimed',
  },
  { name: 'with the statement written down', server: 'trino', hold: () => nthGet(1), state: 'submitted' },
  { name: 'with the statement running', server: 'trino', hold: () => nthGet(3), state: 'submitted' },
  {
    name: 'with the commit not written down',
    server: 's3',
    hold: () => (request) => isLedger(request, 'committed'),
    state: 'submitted',
  },
]

/** A full run that is loaded, and an incremental one of which the table has half the keys. */
async function prepare(world: TrinoWorld): Promise<string> {
  const full = await writeRun(world.store, { mode: 'full', files: [auditRows(1, 100)] })
  await world.ingest()
  const increment = Array.from({ length: 60 }, (_, index) => auditRow(71 + index, 'changed'))
  return (await writeRun(world.store, { files: [increment], previousRunId: full.runId })).runId
}

async function stopAt(
  world: TrinoWorld,
  trinoUrl: string,
  phase: Phase,
  signal: 'SIGTERM' | 'SIGKILL',
): Promise<number | NodeJS.Signals> {
  const { input } = world
  await using gate = await startHttpGate(phase.server === 'trino' ? trinoUrl : (input.s3?.endpoint ?? ''), phase.hold())
  const config =
    phase.server === 'trino'
      ? { ...input, trino: { user: 'test', ...input.trino, url: gate.endpoint } }
      : { ...input, s3: { ...input.s3, endpoint: gate.endpoint } }
  // A second is short for a lease, and long enough not to be lost while the process stands still.
  const { child, ended } = await start(['run'], { ...config, lease: { seconds: 2 } })
  await gate.held
  child.kill(signal)
  return (await ended).code
}

async function expectComplete(world: TrinoWorld): Promise<void> {
  const outcome = await call(['run', '--wait'], { ...world.input, recovery: { waitSeconds: 20 } })
  expect(outcome.log.includes('failed') ? outcome.log : '').toBe('')
  expect(outcome.code).toBe(0)
  expect(await world.rows(`SELECT count(*), count(DISTINCT id), count_if(actor = 'changed') FROM ${world.table}`)).toEqual([
    [130n, 130n, 60n],
  ])
  expect(await world.stages()).toEqual([])
  expect((await call(['run'], world.input)).code).toBe(0)
  expect(await world.count()).toBe(130)
}

describeWith(['trino'], 'a load that is stopped', ({ trino }) => {
  it.each([
    ['SIGKILL', 'SIGKILL'],
    ['SIGTERM', 143],
  ] as const)('by %s when there is no table yet: the next run makes it, with each row once', async (signal, code) => {
    await using world = await trinoWorld(trino)
    await writeRun(world.store, { mode: 'full', files: [auditRows(1, 100)] })
    const phase = phases.find(({ name }) => name === 'with the statement written down')
    if (phase === undefined) expect.unreachable()
    expect(await stopAt(world, trino.url, phase, signal)).toBe(code)
    expect(await world.session.engine.exists({ signal: new AbortController().signal })).toBe(false)
    expect((await call(['run', '--wait'], { ...world.input, recovery: { waitSeconds: 20 } })).code).toBe(0)
    expect(await world.count()).toBe(100)
  })

  it.each(phases)('by SIGKILL $name: the next run leaves each row once', async (phase) => {
    await using world = await trinoWorld(trino)
    const runId = await prepare(world)
    expect(await stopAt(world, trino.url, phase, 'SIGKILL')).toBe('SIGKILL')
    const key = ledgerKey('audit_log', await world.session.engine.ledgerName({ signal: new AbortController().signal }), runId)
    expect((await readEntry(world.store, key))?.entry.state).toBe(phase.state)
    await expectComplete(world)
  })

  it.each(phases)('by SIGTERM $name: it leaves in order, and the next run leaves each row once', async (phase) => {
    await using world = await trinoWorld(trino)
    await prepare(world)
    expect(await stopAt(world, trino.url, phase, 'SIGTERM')).toBe(143)
    await expectComplete(world)
  })
})
