import { silentLogger } from '@common-handlers/core'
import { manifestKey, runPrefix } from '@common-handlers/dataset'
import { describeWith } from '@common-handlers/testkit/vitest'
import { expect, it } from 'vitest'
import { openSession } from '../src/session.ts'
import { call, until } from './program.ts'
import { auditColumns, auditRow, auditRows, withoutKey, writeRun } from './run-files.ts'
import { trinoWorld } from './trino-world.ts'

describeWith(['trino'], 'runs into Iceberg through Trino', ({ trino }) => {
  it('a full run, then an incremental one merged by its key; again adds nothing', async () => {
    await using world = await trinoWorld(trino, { change: { target: { partitioning: ['day(occurred_at)'] } } })
    const full = await writeRun(world.store, { mode: 'full', files: [auditRows(1, 50), auditRows(51, 50)] })
    const [first] = await world.ingest()
    expect(first).toMatchObject({ state: 'committed', method: 'replace', rows: 100, attempts: 1 })
    expect(await world.count()).toBe(100)

    // Half of it is there already, with another actor.
    const increment = Array.from({ length: 40 }, (_, index) => auditRow(81 + index, 'changed'))
    await writeRun(world.store, { files: [increment], previousRunId: full.runId })
    const [second] = await world.ingest()
    expect(second).toMatchObject({ state: 'committed', method: 'merge', rows: 40 })
    expect(await world.rows(`SELECT count(*), count(DISTINCT id), count_if(actor = 'changed') FROM ${world.table}`)).toEqual([
      [120n, 120n, 40n],
    ])

    expect(await world.ingest()).toEqual([])
    expect(await world.count()).toBe(120)
    expect(await world.stages()).toEqual([])
    const snapshots = await world.rows(
      `SELECT CAST(snapshot_id AS varchar) FROM ${world.table.replace(/"$/, '$snapshots"')} WHERE element_at(summary, 'trino_query_id') IS NOT NULL ORDER BY committed_at`,
    )
    expect(snapshots.flat()).toEqual(expect.arrayContaining([first?.snapshotId, second?.snapshotId]))
    const ddl = String((await world.rows(`SHOW CREATE TABLE ${world.table}`))[0]?.[0])
    expect(ddl).toContain("partitioning = ARRAY['day(occurred_at)']")
  })

  it('an incremental run without a key is appended', async () => {
    await using world = await trinoWorld(trino)
    const one = await writeRun(world.store, { columns: withoutKey, files: [auditRows(1, 3)] })
    await writeRun(world.store, { columns: withoutKey, files: [auditRows(4, 2)], previousRunId: one.runId })
    expect(await world.ingest()).toMatchObject([
      { method: 'append', rows: 3 },
      { method: 'append', rows: 2 },
    ])
    expect(await world.count()).toBe(5)
  })

  it('an empty run makes the table and no snapshot; a full one empties it', async () => {
    await using world = await trinoWorld(trino)
    const one = await writeRun(world.store, { files: [] })
    expect(await world.ingest()).toMatchObject([{ rows: 0, snapshotId: undefined, state: 'committed' }])
    expect(await world.count()).toBe(0)
    const two = await writeRun(world.store, { files: [auditRows(1, 2)], previousRunId: one.runId })
    await world.ingest()
    await writeRun(world.store, { mode: 'full', files: [[]], previousRunId: two.runId })
    expect(await world.ingest()).toMatchObject([{ method: 'replace', rows: 0 }])
    expect(await world.count()).toBe(0)
    await writeRun(world.store, { mode: 'full', files: [], previousRunId: two.runId })
    expect(await world.ingest()).toMatchObject([{ method: 'replace', rows: 0 }])
  })

  it('a full run makes those before it needless', async () => {
    await using world = await trinoWorld(trino)
    const one = await writeRun(world.store, { files: [auditRows(1, 3)] })
    const two = await writeRun(world.store, { mode: 'full', files: [auditRows(1, 5)], previousRunId: one.runId })
    await writeRun(world.store, { files: [auditRows(6, 1)], previousRunId: two.runId })
    expect(await world.ingest()).toMatchObject([
      { state: 'superseded' },
      { method: 'replace', rows: 5 },
      { method: 'merge', rows: 1 },
    ])
    expect(await world.count()).toBe(6)
  })

  it('files of the rfc4180 dialect go through copies, which are removed', async () => {
    await using world = await trinoWorld(trino)
    const header = auditColumns.map((column) => column.name).join(',')
    const text = `${header}\n1,2026-11-21 10:00:00+00,"two\nlines, ""quoted""","{""a"": ""\\\\n""}"\n2,\\N,"\\N",\\N\n`
    const run = await writeRun(world.store, { dialect: 'rfc4180', raw: [{ text, rows: 2 }] })
    expect(await world.ingest()).toMatchObject([{ rows: 2, state: 'committed' }])
    expect(await world.rows(`SELECT id, actor, payload FROM ${world.table} ORDER BY id`)).toEqual([
      [1n, 'two\nlines, "quoted"', '{"a": "\\\\n"}'],
      [2n, '\\N', null],
    ])
    const left: string[] = []
    for await (const { key } of world.store.list('audit_log/_ingest/')) left.push(key)
    expect(left).toEqual([
      `audit_log/_ingest/${world.config.target.catalog}.${world.config.target.schema}.audit_log/${run.runId}.json`,
    ])
  })

  it('a replace is one step: the table is never empty, and a failed one leaves the old rows', async () => {
    await using world = await trinoWorld(trino)
    const one = await writeRun(world.store, { mode: 'full', files: [auditRows(1, 4)] })
    await world.ingest()
    const header = auditColumns.map((column) => column.name).join(',')
    await writeRun(world.store, {
      mode: 'full',
      previousRunId: one.runId,
      raw: [{ text: `${header}\n1,2026-11-21 10:00:00+00,a,{}\nnot a number,2026-11-21 10:00:00+00,b,{}\n`, rows: 2 }],
    })
    await expect(world.ingest()).rejects.toMatchObject({ code: 'INGESTOR_ROW_BROKEN', where: { line: 3, column: 'id' } })
    expect(await world.count()).toBe(4)
    expect(await world.stages()).toEqual([])
  })

  const header = auditColumns.map((column) => column.name).join(',')
  it.each([
    ['too few fields', `${header}\n1,2026-11-21 10:00:00+00,a,{}\n2,2026-11-21 10:00:00+00,b\n`, 3],
    ['too many fields', `${header}\n1,2026-11-21 10:00:00+00,a,{},more\n`, 2],
    ['a value that is none', `${header}\n1,2026-11-21 10:00:00+00,a,{}\n2,2026-13-45 10:00:00+00,b,{}\n`, 3],
    // Every value ends in +00, since COPY runs in UTC.
    ['a time in another zone', `${header}\n1,2026-11-21 10:00:00+02,a,{}\n`, 2],
  ])('a row with %s: nothing is loaded, and file and line are named', async (_, text, line) => {
    await using world = await trinoWorld(trino)
    const run = await writeRun(world.store, {
      raw: [
        { text: `${header}\n`, rows: 0 },
        { text, rows: text.split('\n').length - 2 },
      ],
    })
    await expect(world.ingest()).rejects.toMatchObject({
      outcome: 'data',
      code: 'INGESTOR_ROW_BROKEN',
      where: { file: `${world.store.url}/${runPrefix('audit_log', run.runId)}part-00001.csv.gz`, line },
    })
    expect(await world.count()).toBe(0)
  })

  it('a manifest that counts wrong: the rows are taken back', async () => {
    await using world = await trinoWorld(trino)
    const one = await writeRun(world.store, { columns: withoutKey, files: [auditRows(1, 3)] })
    await world.ingest()
    const rows = auditRows(4, 2)
    const text = `${header}\n${rows.map((row) => `${row[0]},${row[1]},${row[2]},`).join('\n')}\n`
    await writeRun(world.store, { columns: withoutKey, raw: [{ text, rows: 5 }], previousRunId: one.runId })
    await expect(world.ingest()).rejects.toMatchObject({
      code: 'INGESTOR_ROWS_DIFFER',
      context: { expected: 5, arrived: 2, undone: true },
    })
    expect(await world.count()).toBe(3)
  })

  it('a manifest of a newer version', async () => {
    await using world = await trinoWorld(trino)
    const run = await writeRun(world.store)
    await world.store.put(manifestKey('audit_log', run.runId), JSON.stringify({ ...run, version: 2 }))
    await expect(world.ingest()).rejects.toMatchObject({ code: 'DATASET_MANIFEST_TOO_NEW' })
  })

  it('a column that the table lacks, and one that it cannot hold', async () => {
    await using world = await trinoWorld(trino)
    const [id, at, actor, payload] = auditColumns
    if (id === undefined || at === undefined || actor === undefined || payload === undefined) throw new Error('no columns')
    const one = await writeRun(world.store, { columns: [id, at, actor], files: [auditRows(1, 2).map((row) => row.slice(0, 3))] })
    await world.ingest()
    const two = await writeRun(world.store, { files: [auditRows(3, 1)], previousRunId: one.runId })
    await expect(world.ingest()).rejects.toMatchObject({
      outcome: 'conflict',
      code: 'INGESTOR_COLUMN_MISSING',
      message: expect.stringContaining('ADD COLUMN "payload" varchar'),
    })
    await world.trino.execute(`ALTER TABLE ${world.table} ADD COLUMN payload varchar`)
    expect(await world.ingest()).toMatchObject([{ state: 'committed' }])
    const infinite = {
      ...at,
      exceptional: true,
      targets: { ...at.targets, iceberg: { type: 'varchar', textBecause: 'holds infinity' } },
    }
    await writeRun(world.store, {
      columns: [id, infinite, actor, payload],
      files: [[['4', 'infinity', 'x', null]]],
      previousRunId: two.runId,
    })
    await expect(world.ingest()).rejects.toMatchObject({
      code: 'INGESTOR_COLUMN_TYPE',
      message: expect.stringContaining('holds infinity'),
    })
  })

  it('a column that became text takes later values in the spelling of PostgreSQL', async () => {
    await using world = await trinoWorld(trino)
    const [id, at, ...rest] = auditColumns
    if (id === undefined || at === undefined) throw new Error('no columns')
    const infinite = {
      ...at,
      exceptional: true,
      targets: { ...at.targets, iceberg: { type: 'varchar', textBecause: 'holds infinity' } },
    }
    const one = await writeRun(world.store, { columns: [id, infinite, ...rest], files: [[['1', 'infinity', 'x', null]]] })
    await writeRun(world.store, { files: [[['2', '2026-11-21 10:15:30.000001+00', 'y', null]]], previousRunId: one.runId })
    await world.ingest()
    expect(await world.rows(`SELECT occurred_at FROM ${world.table} ORDER BY id`)).toEqual([
      ['infinity'],
      ['2026-11-21 10:15:30.000001+00'],
    ])
  })

  it('a table that was dropped although runs were loaded into it', async () => {
    await using world = await trinoWorld(trino)
    const one = await writeRun(world.store)
    await world.ingest()
    await world.trino.execute(`DROP TABLE ${world.table}`)
    await writeRun(world.store, { previousRunId: one.runId, files: [auditRows(10, 1)] })
    await expect(world.ingest()).rejects.toMatchObject({ code: 'INGESTOR_TARGET_LOST' })
  })

  it.each(['its address', 'its table over the files'])('a statement that was ruled out by %s can no longer begin', async (by) => {
    await using world = await trinoWorld(trino)
    const manifest = await writeRun(world.store, { columns: withoutKey })
    const { engine } = world.session
    const attempt = { manifest, method: 'append' as const, attempt: 1 }
    const running = { signal: new AbortController().signal }
    await engine.prepare(attempt, running)
    await engine.stage(attempt, running)
    const zombie = await engine.submit(attempt, running)
    // Found in the ledger by another process.
    const { nextUri, ...submission } = zombie.submission
    await using other = await openSession(world.config, silentLogger)
    const found = by === 'its address' ? { ...submission, nextUri } : submission
    expect(await other.engine.settle(attempt, found, running)).toEqual({ applied: false })
    await expect(zombie.follow(running)).rejects.toThrow()
    expect(await world.count()).toBe(0)
  })

  it('a statement of a dead worker that still runs is waited for', async () => {
    await using world = await trinoWorld(trino)
    const manifest = await writeRun(world.store, { columns: withoutKey, files: [auditRows(1, 500)] })
    const { engine } = world.session
    const attempt = { manifest, method: 'append' as const, attempt: 1 }
    const running = { signal: new AbortController().signal }
    await engine.prepare(attempt, running)
    await engine.stage(attempt, running)
    const statement = await engine.submit(attempt, running)
    const followed = statement.follow(running)
    const begun = `SELECT 1 FROM system.runtime.queries WHERE query_id = '${statement.submission.queryId}' AND state IN ('RUNNING', 'FINISHING', 'FINISHED')`
    await until(async () => (await world.rows(begun)).length > 0)
    await using other = await openSession(world.config, silentLogger)
    expect(await other.engine.settle(attempt, statement.submission, running)).toMatchObject({
      applied: true,
      commit: { rows: 500 },
    })
    await followed
    expect(await world.count()).toBe(500)
  })

  it('plan shows the statements and changes nothing', async () => {
    await using world = await trinoWorld(trino)
    const run = await writeRun(world.store, { files: [auditRows(1, 3)] })
    const { code, stdout } = await call(['plan'], world.input)
    const plan = JSON.parse(stdout) as { runs: { plan: { ddl: string[]; statement: string } }[] }
    expect([code, plan]).toMatchObject([0, { runs: [{ runId: run.runId, method: 'merge', rows: 3, state: 'pending' }] }])
    expect(plan.runs[0]?.plan.ddl).toEqual([expect.stringContaining('CREATE SCHEMA'), expect.stringContaining('"id" bigint')])
    expect(plan.runs[0]?.plan.statement).toMatch(/^MERGE INTO .* ON t."id" = s."id"/)
    expect(await world.session.engine.exists({ signal: new AbortController().signal })).toBe(false)
    const keys = await Array.fromAsync(world.store.list('audit_log/_ingest/'))
    expect(keys).toEqual([])
  })

  it('check tries every connection and right, and says what to do about what is missing', async () => {
    await using world = await trinoWorld(trino)
    await writeRun(world.store)
    const checked = async (input = world.input): Promise<{ code: unknown; ok: boolean; failed: string[]; advice: string }> => {
      const { code, stdout } = await call(['check'], input)
      const { ok, results, advice } = JSON.parse(stdout) as {
        ok: boolean
        results: { steps: { name: string; ok: boolean }[] }[]
        advice: string[]
      }
      const failed = results.flatMap(({ steps }) => steps.filter((step) => !step.ok).map((step) => step.name))
      return { code, ok, failed, advice: advice.join('\n') }
    }
    expect(await checked()).toEqual({ code: 0, ok: true, failed: [], advice: '' })
    await world.ingest()
    expect(await checked()).toMatchObject({ code: 0, ok: true })
    const missing = { ...world.input, trino: { url: trino.url, user: trino.user, stagingCatalog: 'nowhere' } }
    expect(await checked(missing)).toMatchObject({
      code: 1,
      failed: ['find catalog nowhere'],
      advice: expect.stringContaining('connector.name=hive'),
    })
    const wrong = { ...world.input, target: { ...world.input.target, catalog: 'tpch' } }
    expect(await checked(wrong)).toMatchObject({ code: 1, failed: ['find Iceberg catalog tpch'] })
    expect(await world.stages()).toEqual([])
  })

  it('a table in the JDBC catalog', async ({ skip }) => {
    if (trino.jdbcCatalog === null) return skip('this Trino has no JDBC catalog')
    await using world = await trinoWorld(trino, { catalog: trino.jdbcCatalog })
    const full = await writeRun(world.store, { mode: 'full', files: [auditRows(1, 5)] })
    await writeRun(world.store, { files: [auditRows(4, 4)], previousRunId: full.runId })
    expect(await world.ingest()).toMatchObject([
      { method: 'replace', rows: 5 },
      { method: 'merge', rows: 4 },
    ])
    expect(await world.count()).toBe(7)
    expect(await world.ingest()).toEqual([])
  })
})
