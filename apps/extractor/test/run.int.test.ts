import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { encodeOneRowALine, type Manifest, readRows as parseRows, runPrefix } from '@common-handlers/dataset'
import { PostgresHandler } from '@common-handlers/postgres-handler'
import { describeWith } from '@common-handlers/testkit/vitest'
import { expect, it } from 'vitest'
import { addRows, auditLogTable } from './audit-log.ts'
import { dataset, type Setup, setUp } from './harness.ts'
import { readPart, readRows } from './stored-files.ts'

/** COPY's own bytes, as psql would write them; and the same in the other dialect. */
async function copied(setup: Setup, select: string, dialect: 'one-row-a-line' | 'rfc4180'): Promise<Buffer> {
  const { host, port, user, password, database } = setup.database
  await using postgres = new PostgresHandler({ host, port, user, password, database })
  const blocks: Buffer[] = []
  for await (const block of postgres.copyOut(`COPY (${select}) TO STDOUT (FORMAT csv, NULL '\\N')`)) {
    blocks.push(dialect === 'rfc4180' ? block.bytes : encodeOneRowALine(block))
  }
  return Buffer.concat(blocks)
}

async function expectTrueFiles(setup: Setup, manifest: Manifest, header: string): Promise<void> {
  for (const file of manifest.files) {
    const stored = await setup.store.getBytes(runPrefix(dataset, manifest.runId) + file.name)
    expect(createHash('sha256').update(stored.bytes).digest('hex')).toBe(file.sha256)
    expect(stored.bytes.byteLength).toBe(file.bytes)
    expect(stored.etag).toBe(file.etag)
    const csv = await readPart(setup.store, manifest, file.name)
    expect(csv.subarray(0, header.length).toString()).toBe(header)
    const rows = await Array.fromAsync(parseRows(Readable.from([csv]), { dialect: manifest.format.dialect }))
    expect(rows.length).toBe(file.rows)
  }
  expect(manifest.totals).toEqual({
    files: manifest.files.length,
    rows: manifest.files.reduce((sum, file) => sum + file.rows, 0),
    bytes: manifest.files.reduce((sum, file) => sum + file.bytes, 0),
  })
}

const header = 'id,occurred_at,actor,amount,payload,note\n'

for (const kind of ['a folder', 'S3'] as const) {
  describeWith(kind === 'S3' ? ['postgres', 's3'] : ['postgres'], `a full run into ${kind}`, (servers) => {
    const begin = (): Promise<Setup> => setUp(servers.postgres, 's3' in servers ? servers.s3 : undefined)

    it.each([
      ['one-row-a-line', 'gzip'],
      ['one-row-a-line', 'zstd'],
      ['one-row-a-line', 'none'],
      ['rfc4180', 'gzip'],
    ] as const)('holds the bytes of COPY in %s, %s, in files of about the asked size', async (dialect, compression) => {
      await using setup = await begin()
      await setup.sql(auditLogTable)
      await addRows(setup, 6000)
      const { code, result } = await setup.call('run', {
        source: { table: 'audit_log' },
        output: { dialect, compression, fileBytes: '64 KiB' },
      })
      expect(code).toBe(0)
      const [manifest] = await setup.manifests()
      if (manifest === undefined) throw new Error('there is no manifest')
      expect(result).toMatchObject({ runId: manifest.runId, rows: 6000, bytes: manifest.totals.bytes, mode: 'full' })
      expect(result['manifest']).toBe(`${setup.store.url}/${runPrefix(dataset, manifest.runId)}_manifest.json`)
      expect(manifest.files.length).toBeGreaterThan(2)
      for (const file of manifest.files.slice(0, -1)) expect(file.bytes).toBeGreaterThanOrEqual(65_536)
      expect(manifest.files[0]?.name).toBe(`part-00000.csv${{ gzip: '.gz', zstd: '.zst', none: '' }[compression]}`)
      await expectTrueFiles(setup, manifest, header)
      const expected = await copied(setup, 'SELECT * FROM audit_log ORDER BY id', dialect)
      expect((await readRows(setup.store, manifest)).equals(expected)).toBe(true)
      expect(manifest.columns.map(({ name, logicalType, keyPosition }) => [name, logicalType, keyPosition])).toEqual([
        ['id', 'int64', 1],
        ['occurred_at', 'timestamptz', undefined],
        ['actor', 'text', undefined],
        ['amount', 'decimal', undefined],
        ['payload', 'json', undefined],
        ['note', 'text', undefined],
      ])
    })

    it('of an empty table is committed: the target has to be made', async () => {
      await using setup = await begin()
      await setup.sql(auditLogTable)
      expect((await setup.call('run', { source: { table: 'audit_log' } })).code).toBe(0)
      const [manifest] = await setup.manifests()
      expect(manifest).toMatchObject({ files: [], totals: { files: 0, rows: 0, bytes: 0 }, mode: 'full' })
      expect(manifest?.columns.length).toBe(6)
    })
  })
}

describeWith(['postgres'], 'a full run', ({ postgres }) => {
  it('takes the columns, rows and key that were asked for, and texts where they were', async () => {
    await using setup = await setUp(postgres)
    await setup.sql(auditLogTable)
    await addRows(setup, 100)
    const source = { table: 'audit_log', columns: ['amount', 'id'], where: 'id % 2 = 0 -- even ones', text: ['amount'] }
    await setup.call('run', { source })
    const [manifest] = await setup.manifests()
    if (manifest === undefined) throw new Error('there is no manifest')
    expect(manifest.columns.map(({ name, keyPosition, targets }) => [name, keyPosition, targets.iceberg.type])).toEqual([
      ['amount', undefined, 'varchar'],
      ['id', 1, 'bigint'],
    ])
    expect(await readRows(setup.store, manifest)).toEqual(
      await copied(setup, 'SELECT amount, id FROM audit_log WHERE id % 2 = 0 ORDER BY id', 'one-row-a-line'),
    )
  })

  it('notes values that not every engine can hold', async () => {
    await using setup = await setUp(postgres)
    await setup.sql(`CREATE TABLE odd (id int PRIMARY KEY, at timestamptz, day date, amount numeric(5,2))`)
    await setup.sql(`INSERT INTO odd VALUES (1, 'infinity', '2026-01-01', 1), (2, '2026-01-01', '2026-01-01', 'NaN')`)
    await setup.call('run', { source: { table: 'odd' } })
    const [manifest] = await setup.manifests()
    expect(manifest?.columns.map(({ name, exceptional, targets }) => [name, exceptional, targets.iceberg.type])).toEqual([
      ['id', undefined, 'integer'],
      ['at', true, 'varchar'],
      ['day', undefined, 'date'],
      ['amount', true, 'varchar'],
    ])
  })

  it('reads a query', async () => {
    await using setup = await setUp(postgres)
    await setup.sql(auditLogTable)
    await addRows(setup, 50)
    const query = 'SELECT actor, count(*) AS entries, max(id) AS last FROM audit_log GROUP BY actor; '
    await setup.call('run', { source: { query, key: ['actor'] } })
    const [manifest] = await setup.manifests()
    if (manifest === undefined) throw new Error('there is no manifest')
    expect(manifest.source).toMatchObject({ system: 'postgresql', query: query.replace('; ', '') })
    expect(manifest.columns.map(({ name, keyPosition }) => [name, keyPosition])).toEqual([
      ['actor', 1],
      ['entries', undefined],
      ['last', undefined],
    ])
    const select = 'SELECT actor, count(*), max(id) FROM audit_log GROUP BY actor ORDER BY actor'
    expect(await readRows(setup.store, manifest)).toEqual(await copied(setup, select, 'one-row-a-line'))
  })

  it('sees one moment: rows that come while it reads are not in it', async () => {
    await using setup = await setUp(postgres)
    await setup.sql(auditLogTable)
    await addRows(setup, 10)
    // A function that commits nothing and is called once a row: the reader waits in the middle for the lock.
    await setup.sql(`CREATE FUNCTION gate(id bigint) RETURNS bigint STABLE LANGUAGE plpgsql AS
      'BEGIN IF id = 5 THEN PERFORM pg_advisory_xact_lock_shared(1); END IF; RETURN id; END'`)
    await setup.sql('SELECT pg_advisory_lock(1)')
    const running = setup.call('run', { source: { query: 'SELECT gate(id) AS id, note FROM audit_log', key: ['id'] } })
    const waiting = `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'COPY%'`
    while ((await setup.sql(waiting)).length === 0) await new Promise((resolve) => setTimeout(resolve, 20))
    await addRows(setup, 10)
    await setup.sql('SELECT pg_advisory_unlock(1)')
    expect((await running).result['rows']).toBe(10)
  })

  it('makes the same bytes of the same rows', async () => {
    await using setup = await setUp(postgres)
    await setup.sql(auditLogTable)
    await addRows(setup, 3000)
    const settings = { source: { table: 'audit_log' }, output: { fileBytes: 32_768 } }
    await setup.call('run', settings)
    await setup.call('run', settings)
    const [first, second] = await setup.manifests()
    expect(second?.previousRunId).toBe(first?.runId)
    expect(second?.files.map((file) => file.sha256)).toEqual(first?.files.map((file) => file.sha256))
  })
})

describeWith(['postgres'], 'plan and check', ({ postgres }) => {
  it('plan says what would be done, and does nothing', async () => {
    await using setup = await setUp(postgres)
    await setup.sql(auditLogTable)
    await addRows(setup, 1000)
    await setup.sql('ANALYZE audit_log')
    const { code, result } = await setup.call('plan', { source: { table: 'audit_log', mode: 'incremental', watermark: 'id' } })
    expect(code).toBe(0)
    expect(result).toMatchObject({
      source: { table: '"public"."audit_log"' },
      mode: 'incremental',
      watermark: { column: 'id', lateRows: true },
      key: ['id'],
      estimatedRows: 1000,
      estimatedFiles: 1,
    })
    expect(result['sql']).toContain('ORDER BY source."id"')
    expect(result['columns'][3]).toMatchObject({ sourceType: 'numeric(12,2)', targets: { iceberg: { type: 'decimal(12,2)' } } })
    expect(await Array.fromAsync(setup.store.list(''))).toEqual([])
  })

  it('check names every step, and leaves nothing behind', async () => {
    await using setup = await setUp(postgres)
    await setup.sql(auditLogTable)
    const { code, result } = await setup.call('check', { source: { table: 'audit_log' } })
    expect(code).toBe(0)
    const steps = (result as unknown as { steps: { name: string; ok: boolean }[] }[]).flatMap((one) => one.steps)
    expect(steps.every((step) => step.ok)).toBe(true)
    expect(steps.map((step) => step.name)).toEqual(
      expect.arrayContaining([
        'connect',
        'read audit_log',
        'read the columns of audit_log',
        'refuse to write it again',
        'look for runs of audit_log',
      ]),
    )
    expect(await Array.fromAsync(setup.store.list(''))).toEqual([])
    const failed = await setup.call('check', { source: { table: 'audit_log', where: 'nothing = 1' } })
    expect(failed.code).toBe(1)
    expect(JSON.stringify(failed.result)).toContain('POSTGRES_COLUMN_NOT_FOUND')
  })
})
