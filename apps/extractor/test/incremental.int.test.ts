import { Readable } from 'node:stream'
import { type Manifest, readRows as parseRows } from '@common-handlers/dataset'
import { describeWith } from '@common-handlers/testkit/vitest'
import { expect, it } from 'vitest'
import { addRows, auditLogTable } from './audit-log.ts'
import { dataset, type Settings, type Setup, setUp } from './harness.ts'
import { readPart } from './stored-files.ts'

const incremental: Settings = { source: { table: 'audit_log', mode: 'incremental', watermark: 'id' } }

/** The first column of every row of a run, in order. */
async function ids(setup: Setup, manifest: Manifest | undefined): Promise<number[]> {
  if (manifest === undefined) throw new Error('there is no such run')
  const found: number[] = []
  for (const { name } of manifest.files) {
    const csv = await readPart(setup.store, manifest, name)
    for await (const { values } of parseRows(Readable.from([csv]), { dialect: manifest.format.dialect }))
      found.push(Number(values[0]))
  }
  return found
}

const insert = (id: number): string => `INSERT INTO audit_log (id, note) VALUES (${id}, 'row ${id}')`

describeWith(['postgres'], 'incremental runs', ({ postgres }) => {
  it('read what is new, and write no run when nothing is', async () => {
    await using setup = await setUp(postgres)
    await setup.sql(auditLogTable)
    await addRows(setup, 3)
    expect((await setup.call('run', incremental)).result).toMatchObject({
      rows: 3,
      watermark: { column: 'id', to: '3', lateRows: true },
    })
    const nothing = await setup.call('run', incremental)
    expect([nothing.code, nothing.result['runId'], nothing.result['rows']]).toEqual([0, null, 0])
    await addRows(setup, 2)
    expect((await setup.call('run', incremental)).result).toMatchObject({ rows: 2, watermark: { from: '3', to: '5' } })
    const [first, second, ...more] = await setup.manifests()
    expect([await ids(setup, first), await ids(setup, second), more.length]).toEqual([[1, 2, 3], [4, 5], 0])
    expect(second?.previousRunId).toBe(first?.runId)
  })

  it('go on after an empty first run and after a full one', async () => {
    await using setup = await setUp(postgres)
    await setup.sql(auditLogTable)
    await setup.call('run', incremental)
    await addRows(setup, 2)
    await setup.call('run', incremental)
    await setup.call('run', { source: { table: 'audit_log', watermark: 'id' } })
    await addRows(setup, 1)
    await setup.call('run', incremental)
    const manifests = await setup.manifests()
    expect(manifests.map(({ mode, totals }) => [mode, totals.rows])).toEqual([
      ['incremental', 0],
      ['incremental', 2],
      ['full', 2],
      ['incremental', 1],
    ])
  })

  it('bring a row that took its id early and was committed late, exactly once', async () => {
    await using setup = await setUp(postgres)
    await setup.sql(auditLogTable)
    const late = await setup.connect()
    await late.query('BEGIN')
    await late.query(insert(1))
    await setup.sql(insert(2))
    await setup.call('run', incremental)
    await late.query('COMMIT')
    await setup.call('run', incremental)
    const third = await setup.call('run', incremental)
    expect(third.result['runId']).toBeNull()
    const [first, second] = await setup.manifests()
    expect([await ids(setup, first), await ids(setup, second)]).toEqual([[2], [1]])
    expect(second?.watermark).toMatchObject({ from: '2', to: '2', lateRows: true })
  })

  it('know the subtransactions of a running transaction, which no snapshot lists', async () => {
    await using setup = await setUp(postgres)
    await setup.sql(auditLogTable)
    const late = await setup.connect()
    await late.query('BEGIN')
    await late.query(insert(1))
    await late.query('SAVEPOINT a')
    await late.query(insert(2))
    await late.query('RELEASE a')
    // Committed meanwhile, and with an id between those of the running one: it must not come twice.
    await setup.sql(`DO $$ BEGIN ${insert(3)}; BEGIN ${insert(4)}; EXCEPTION WHEN division_by_zero THEN NULL; END; END $$`)
    await late.query('SAVEPOINT b')
    await late.query(insert(5))
    // Its own id, and those of its rows: the first is its own too, the others are of its subtransactions.
    const { rows: own } = await late.query('SELECT pg_current_xact_id()::text AS id')
    const { rows: subs } = await late.query('SELECT xmin::text AS id FROM audit_log WHERE id IN (2, 5)')
    expect(subs).toHaveLength(2)
    await setup.sql(insert(6))
    await setup.call('run', incremental)
    // Still running while the second run reads: what the first one knew has to be handed on.
    await setup.sql(insert(7))
    await setup.call('run', incremental)
    await late.query('COMMIT')
    await setup.call('run', incremental)
    const manifests = await setup.manifests()
    expect(await Promise.all(manifests.map((manifest) => ids(setup, manifest)))).toEqual([[3, 4, 6], [7], [1, 2, 5]])
    // Transaction ids are the server's: whatever else runs there may be listed too.
    const listed = manifests[0]?.snapshot.xip
    expect(listed).toContain(own[0]?.id)
    for (const { id } of subs) expect(listed).not.toContain(id)
  })

  it('leave no row out and bring none twice, whatever commits in whatever order', async () => {
    await using setup = await setUp(postgres)
    await setup.sql(auditLogTable)
    const writers = await Promise.all(Array.from({ length: 4 }, () => setup.connect()))
    let random = 42
    const next = (below: number): number => (random = (random * 48_271) % 2_147_483_647) % below
    const open = new Set<number>()
    for (let step = 0; step < 120; step++) {
      const at = next(writers.length)
      const writer = writers[at]
      if (writer === undefined) continue
      if (!open.has(at)) await writer.query('BEGIN')
      open.add(at)
      if (next(3) === 0) await writer.query(`SAVEPOINT s${step}`)
      await writer.query(`INSERT INTO audit_log (note) VALUES ('${step}')`)
      if (next(3) === 0) {
        await writer.query(next(5) === 0 ? 'ROLLBACK' : 'COMMIT')
        open.delete(at)
      }
      if (step % 12 === 11) expect((await setup.call('run', incremental)).code).toBe(0)
    }
    for (const at of open) await writers[at]?.query('COMMIT')
    await setup.call('run', incremental)
    const read = (await Promise.all((await setup.manifests()).map((manifest) => ids(setup, manifest)))).flat()
    const there = (await setup.sql('SELECT id FROM audit_log ORDER BY id')).map((row) => Number(row['id']))
    expect(read.toSorted((a, b) => a - b)).toEqual(there)
  })

  it('bring an updated row again: the load merges it by its key', async () => {
    await using setup = await setUp(postgres)
    await setup.sql(auditLogTable)
    await addRows(setup, 3)
    await setup.call('run', incremental)
    await setup.sql(`UPDATE audit_log SET note = 'changed' WHERE id = 2`)
    await setup.call('run', incremental)
    expect(await ids(setup, (await setup.manifests())[1])).toEqual([2])
  })

  it('search for late rows as far down as was asked', async () => {
    await using setup = await setUp(postgres)
    await setup.sql(auditLogTable)
    const late = await setup.connect()
    await late.query('BEGIN')
    await late.query(insert(10))
    await late.query(insert(95))
    await setup.sql(insert(100))
    await setup.call('run', incremental)
    await late.query('COMMIT')
    await setup.call('run', { source: { ...incremental.source, lookback: 20 } })
    expect(await ids(setup, (await setup.manifests())[1])).toEqual([95])
  })

  it('read partitioned tables, and times as watermarks', async () => {
    await using setup = await setUp(postgres)
    await setup.sql(`CREATE TABLE audit_log (id int, at timestamptz, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
      CREATE TABLE p1 PARTITION OF audit_log FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
      CREATE TABLE p2 PARTITION OF audit_log FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')`)
    const settings: Settings = { source: { table: 'audit_log', mode: 'incremental', watermark: 'at', lookback: '3 days' } }
    const late = await setup.connect()
    await late.query('BEGIN')
    await late.query(`INSERT INTO audit_log VALUES (1, '2026-01-31 12:00:00.000001+00')`)
    await setup.sql(`INSERT INTO audit_log VALUES (2, '2026-02-01 12:00:00.000002+00')`)
    await setup.call('run', settings)
    await late.query('COMMIT')
    await setup.sql(`INSERT INTO audit_log VALUES (3, '2026-02-01 12:00:00.000003+00')`)
    const { result } = await setup.call('run', settings)
    expect(result['watermark']).toMatchObject({ from: '2026-02-01 12:00:00.000002+00', to: '2026-02-01 12:00:00.000003+00' })
    expect(await ids(setup, (await setup.manifests())[1])).toEqual([1, 3])
  })

  it('of a view or a query say that late rows are not looked for', async () => {
    await using setup = await setUp(postgres)
    await setup.sql(auditLogTable)
    await setup.sql('CREATE VIEW v AS SELECT * FROM audit_log')
    await addRows(setup, 2)
    for (const source of [{ table: 'v' }, { query: 'SELECT * FROM audit_log' }]) {
      const settings: Settings = {
        dataset: 'table' in source ? 'by_view' : 'by_query',
        source: { ...source, mode: 'incremental', watermark: 'id' },
      }
      const first = await setup.call('run', settings)
      expect(first.result).toMatchObject({ rows: 2, watermark: { lateRows: false } })
      expect(first.log).toContain('cannot be looked for')
      expect((await setup.call('plan', settings)).result['remark']).toContain('cannot be looked for')
      expect((await setup.call('run', settings)).result['runId']).toBeNull()
    }
  })

  it('are refused when they cannot follow the run before', async () => {
    await using setup = await setUp(postgres)
    await setup.sql(auditLogTable)
    await addRows(setup, 2)
    await setup.call('run', { source: { table: 'audit_log' } })
    const refused = await setup.call('run', incremental)
    expect(refused.code).toBe(2)
    expect(refused.log).toContain('it noted no watermark; start over with a full run')
    await setup.call('run', { source: { table: 'audit_log', watermark: 'id' } })
    await setup.sql('ALTER TABLE audit_log ALTER note TYPE varchar(100)')
    const changed = await setup.call('run', incremental)
    expect(changed.code).toBe(2)
    expect(changed.log).toContain('its column \\"note\\" was of type text, now it is character varying(100)')
  })
})

describeWith(['postgres', 's3'], 'two extractors of one dataset', ({ postgres, s3 }) => {
  it('at once: one commits, the other ends with 7 and leaves nothing', async () => {
    await using setup = await setUp(postgres, s3)
    await setup.sql(auditLogTable)
    await addRows(setup, 1000)
    await setup.call('run', incremental)
    await addRows(setup, 1000)
    // Both have chosen the run to follow before either can read.
    await setup.sql('BEGIN')
    await setup.sql('LOCK TABLE audit_log IN ACCESS EXCLUSIVE MODE')
    const running = [await setup.spawn('run', incremental), await setup.spawn('run', incremental)]
    const other = await setup.connect()
    const waiting = `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`
    while ((await other.query(waiting)).rowCount !== 2) await new Promise((resolve) => setTimeout(resolve, 20))
    await setup.sql('COMMIT')
    const outcomes = await Promise.all(running.map((one) => one.ended))
    expect(new Set(outcomes.map((one) => one.code))).toEqual(new Set([0, 7]))
    expect(outcomes.find((one) => one.code === 7)?.log).toContain('EXTRACTOR_RUN_OVERTAKEN')
    const manifests = await setup.manifests()
    expect(manifests.map((manifest) => manifest.totals.rows)).toEqual([1000, 1000])
    const keys = await Array.fromAsync(setup.store.list(`${dataset}/run=`), (object) => object.key)
    const committed = manifests.map((manifest) => `run=${manifest.runId}/`)
    expect(keys.filter((key) => key.includes('.csv') && !committed.some((run) => key.includes(run)))).toEqual([])
  })
})
