import { describeWith } from '@common-handlers/testkit'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  addColumns,
  createExternalCsvTable,
  createSchema,
  createTable,
  currentSnapshot,
  datasetColumns,
  dropTable,
  type ExecuteResult,
  expireSnapshots,
  ident,
  type IcebergSnapshot,
  oldestSnapshotAt,
  optimize,
  removeOrphanFiles,
  snapshotByQueryId,
  sql,
  tableColumns,
  tableIdent,
  type TableName,
  TrinoHandler,
} from '../src/index.ts'

describeWith(['trino'], 'Iceberg', ({ trino: { url, user, catalog, stagingCatalog, s3 } }) => {
  const trino = new TrinoHandler({ url, user })
  const schema = `iceberg_${crypto.randomUUID().slice(0, 8)}`
  const table: TableName = { catalog, schema, table: 'audit_log' }
  const name = tableIdent(table)
  const numbers = (from: number, to: number): string =>
    `(SELECT CAST(n AS bigint) AS id, 'v' AS v FROM UNNEST(sequence(${from}, ${to})) AS t(n))`
  const insert = (from: number, to: number): Promise<ExecuteResult> =>
    trino.execute(`INSERT INTO ${name} SELECT * FROM ${numbers(from, to)}`)
  const count = async (): Promise<bigint | undefined> =>
    (await trino.query<{ n: bigint }>(`SELECT count(*) AS n FROM ${name}`)).rows[0]?.n
  const found = async ({ queryId }: { readonly queryId: string }): Promise<IcebergSnapshot | undefined> =>
    snapshotByQueryId(trino, table, queryId)
  const fresh = async (): Promise<void> => {
    await dropTable(trino, table)
    await createTable(trino, table, [
      { name: 'id', type: 'bigint', nullable: false },
      { name: 'v', type: 'varchar' },
    ])
  }

  beforeAll(() => createSchema(trino, table))
  afterAll(async () => {
    await trino.execute(sql`DROP SCHEMA IF EXISTS ${ident(catalog, schema)} CASCADE`)
    await trino.execute(sql`DROP SCHEMA IF EXISTS ${ident(stagingCatalog, schema)} CASCADE`)
    await trino.close()
  })

  it('makes a table as described, and leaves one that is there', async () => {
    const described: TableName = { catalog, schema, table: 'described' }
    const columns = [
      { name: 'id', type: 'bigint', nullable: false, comment: "the row's id" },
      { name: 'happened at', type: 'timestamp(6) with time zone' },
      { name: `am"ou'nt`, type: 'decimal(38,10)' },
      { name: 'who', type: 'uuid' },
    ]
    await createTable(trino, described, columns, {
      partitioning: ['bucket(id, 4)'],
      sortedBy: ['id DESC NULLS LAST'],
      format: 'PARQUET',
      comment: "it's",
    })
    await createTable(trino, described, [{ name: 'other', type: 'varchar' }])
    expect(await tableColumns(trino, described)).toEqual([
      { name: 'id', type: 'bigint', nullable: false },
      { name: 'happened at', type: 'timestamp(6) with time zone', nullable: true },
      { name: `am"ou'nt`, type: 'decimal(38,10)', nullable: true },
      { name: 'who', type: 'uuid', nullable: true },
    ])
    const { rows } = await trino.query<{ 'Create Table': string }>(`SHOW CREATE TABLE ${tableIdent(described)}`)
    for (const part of [
      "COMMENT 'it''s'",
      "ARRAY['bucket(id, 4)']",
      "ARRAY['id DESC NULLS LAST']",
      "format = 'PARQUET'",
      "COMMENT 'the row''s id'",
    ]) {
      expect(rows[0]?.['Create Table']).toContain(part)
    }
    await expect(createTable(trino, described, columns, { ifNotExists: false })).rejects.toMatchObject({ outcome: 'conflict' })
    await expect(createTable(trino, { ...described, table: 'x' }, [{ name: 'a', type: 'bigint) --' }])).rejects.toMatchObject({
      outcome: 'data',
    })
    await dropTable(trino, described)
    await dropTable(trino, described)
  })

  it('says undefined for a table that is not there', async () => {
    expect(await tableColumns(trino, { ...table, table: 'nowhere' })).toBeUndefined()
    expect(await tableColumns(trino, { ...table, schema: 'nowhere' })).toBeUndefined()
    expect(await tableColumns(trino, { ...table, catalog: 'nowhere' })).toBeUndefined()
  })

  it('finds the snapshot of a write by its query id', async () => {
    await fresh()
    const written = await insert(1, 10)
    const snapshot = await found(written)
    expect(snapshot).toMatchObject({ operation: 'append', queryId: written.queryId, addedRecords: 10n, totalRecords: 10n })
    expect(snapshot?.snapshotId).toBeTypeOf('bigint')
    expect(await currentSnapshot(trino, table)).toEqual(snapshot)
    expect(Math.abs(Date.now() - Number(snapshot?.committedAt))).toBeLessThan(60_000)
    const oldest = await oldestSnapshotAt(trino, table)
    expect(Number(oldest)).toBeLessThan(Number(snapshot?.committedAt))
    // The id is exact: the server finds the snapshot by it.
    const { rows } = await trino.query(
      sql`SELECT count(*) AS n FROM ${ident(catalog, schema, 'audit_log$snapshots')} WHERE snapshot_id = ${snapshot?.snapshotId ?? null}`,
    )
    expect(rows).toEqual([{ n: 1n }])
    expect(await snapshotByQueryId(trino, table, '20200101_000000_00000_abcde')).toBeUndefined()
  })

  it('a write that changes no row makes no snapshot', async () => {
    await fresh()
    await insert(1, 3)
    const before = await currentSnapshot(trino, table)
    const empty = await trino.execute(`INSERT INTO ${name} SELECT * FROM ${numbers(1, 3)} WHERE id > 100`)
    const replay = await trino.execute(
      `MERGE INTO ${name} t USING ${numbers(1, 3)} s ON t.id = s.id WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v)`,
    )
    expect([empty.updateCount, replay.updateCount]).toEqual([0, 0])
    expect([await found(empty), await found(replay)]).toEqual([undefined, undefined])
    expect(await currentSnapshot(trino, table)).toEqual(before)
  })

  it('the snapshot of a MERGE counts inserted and rewritten rows as added', async () => {
    await fresh()
    await insert(1, 10)
    const merged = await trino.execute(`MERGE INTO ${name} t USING ${numbers(8, 12)} s ON t.id = s.id
      WHEN MATCHED THEN UPDATE SET v = 'new' WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v)`)
    expect(merged).toMatchObject({ updateType: 'MERGE', updateCount: 5 })
    const snapshot = await found(merged)
    expect(snapshot).toMatchObject({ operation: 'overwrite', addedRecords: 5n, totalRecords: 15n })
    expect(snapshot?.summary.get('added-position-deletes')).toBe('3')
    expect(await count()).toBe(12n)
  })

  it('of several MERGEs of the same rows at once exactly one wins; the others say that it is safe to try again', async () => {
    await fresh()
    await insert(1, 5)
    const merge = `MERGE INTO ${name} t USING ${numbers(1, 2_000)} s ON t.id = s.id WHEN MATCHED THEN UPDATE SET v = 'x' WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v)`
    const outcomes = await Promise.allSettled([1, 2, 3].map(() => trino.execute(merge)))
    expect(await count()).toBe(2_000n)
    const lost = outcomes.filter((outcome) => outcome.status === 'rejected').map((outcome): unknown => outcome.reason)
    expect(lost.length).toBeLessThan(outcomes.length)
    const conflict: object = { code: 'TRINO_ICEBERG_COMMIT_ERROR', outcome: 'conflict', retry: 'safe' }
    expect(lost).toMatchObject(lost.map(() => conflict))
  })

  describe('CREATE OR REPLACE TABLE … AS', () => {
    it('is one snapshot with the query id, and keeps the old ones', async () => {
      await fresh()
      const old = await found(await insert(1, 10))
      const replaced = await trino.execute(`CREATE OR REPLACE TABLE ${name} AS SELECT * FROM ${numbers(1, 100)}`)
      expect(replaced.updateCount).toBe(100)
      const snapshot = await found(replaced)
      expect(snapshot).toMatchObject({ operation: 'append', parentId: undefined, addedRecords: 100n, totalRecords: 100n })
      expect(await currentSnapshot(trino, table)).toEqual(snapshot)
      const { rows } = await trino.query(`SELECT count(*) AS n FROM ${name} FOR VERSION AS OF ${old?.snapshotId}`)
      expect(rows).toEqual([{ n: 10n }])
      expect(await found({ queryId: old?.queryId ?? '' })).toEqual(old)
      // The new table has the columns of the query: NOT NULL is gone.
      expect(await tableColumns(trino, table)).toEqual([
        { name: 'id', type: 'bigint', nullable: true },
        { name: 'v', type: 'varchar', nullable: true },
      ])
    })

    it('leaves its snapshot even when it writes no row', async () => {
      const replaced = await trino.execute(`CREATE OR REPLACE TABLE ${name} AS SELECT * FROM ${numbers(1, 3)} WHERE id > 100`)
      expect(await found(replaced)).toMatchObject({ addedRecords: 0n })
      expect(await count()).toBe(0n)
    })

    it('leaves the old table as it was when it fails', async () => {
      await fresh()
      await insert(1, 10)
      const before = await currentSnapshot(trino, table)
      const failing = `CREATE OR REPLACE TABLE ${name} AS SELECT CASE WHEN id = 90 THEN CAST(fail('id 90 is bad') AS bigint) ELSE id END AS id FROM ${numbers(1, 100)}`
      await expect(trino.execute(failing)).rejects.toMatchObject({ code: 'TRINO_GENERIC_USER_ERROR' })
      expect(await currentSnapshot(trino, table)).toEqual(before)
      expect(await count()).toBe(10n)
    })
  })

  it('fail() inside a CASE ends an INSERT with its message, and nothing is written', async () => {
    await fresh()
    const checked = sql`INSERT INTO ${ident(catalog, schema, 'audit_log')}
      SELECT CASE WHEN n = 7 THEN CAST(fail(${"row 7: it's bad"}) AS bigint) ELSE n END, 'v' FROM UNNEST(sequence(1, 10)) AS t(n)`
    const error: unknown = await trino.execute(checked).catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: 'TRINO_GENERIC_USER_ERROR', serverCode: 'GENERIC_USER_ERROR', retry: 'never' })
    expect((error as Error).message).toContain("row 7: it's bad")
    expect(await count()).toBe(0n)
    expect((await currentSnapshot(trino, table))?.addedRecords).toBe(0n)
  })

  it('makes a table for a dataset, adds columns to it, and adds none twice', async () => {
    await dropTable(trino, table)
    const dataset = [
      { name: 'id', nullable: false, targets: { iceberg: { type: 'bigint' } } },
      { name: 'at', nullable: true, targets: { iceberg: { type: 'timestamp(6) with time zone' } } },
    ]
    const layout = { partitioning: ['day(at)'], sortedBy: ['id'], format: 'ORC' as const }
    await createTable(trino, table, datasetColumns(dataset), layout)
    await trino.execute(`INSERT INTO ${name} VALUES (1, NULL)`)
    for (const _ of [1, 2]) await addColumns(trino, table, [{ name: 'Odd "name"', type: 'decimal(10,2)', comment: "it's new" }])
    expect(await tableColumns(trino, table)).toEqual([
      { name: 'id', type: 'bigint', nullable: false },
      { name: 'at', type: 'timestamp(6) with time zone', nullable: true },
      { name: 'odd "name"', type: 'decimal(10,2)', nullable: true },
    ])
    const made = await trino.query<{ 'Create Table': string }>(`SHOW CREATE TABLE ${name}`)
    expect(made.rows[0]?.['Create Table']).toMatch(
      /format = 'ORC'[^]*partitioning = ARRAY\['day\(at\)'\][^]*sorted_by = ARRAY\['id/,
    )
  })

  it('writes small files together, forgets snapshots and deletes what nothing needs', async () => {
    const brief = { [`${catalog}.expire_snapshots_min_retention`]: '0s', [`${catalog}.remove_orphan_files_min_retention`]: '0s' }
    await using keeper = new TrinoHandler({ url, user, sessionProperties: brief })
    await fresh()
    const first = await insert(1, 5)
    for (const from of [6, 11, 16]) await insert(from, from + 4)
    const files = async (): Promise<bigint | undefined> =>
      (await trino.query<{ n: bigint }>(`SELECT count(*) AS n FROM ${tableIdent(table).replace(/"$/, '$files"')}`)).rows[0]?.n
    expect(await files()).toBe(4n)
    await optimize(keeper, table, { fileSizeThreshold: '10MB' })
    expect(await files()).toBe(1n)
    expect((await currentSnapshot(trino, table))?.operation).toBe('replace')
    expect(await found(first)).toBeDefined()
    await expect(expireSnapshots(trino, table, '0s')).rejects.toMatchObject({ retry: 'never' })
    await expireSnapshots(keeper, table, '0s')
    expect(await found(first)).toBeUndefined()
    await removeOrphanFiles(keeper, table, '0s')
    expect(await count()).toBe(20n)
    await expect(expireSnapshots(trino, table, "1d') --")).rejects.toMatchObject({ code: 'TRINO_CONFIG_INVALID' })
  })

  it('refuses a NULL where there must be none', async () => {
    await fresh()
    await expect(trino.execute(`INSERT INTO ${name} VALUES (NULL, 'v')`)).rejects.toMatchObject({
      code: 'TRINO_CONSTRAINT_VIOLATION',
      outcome: 'data',
    })
  })

  it('reads CSV files in place, and leaves them when the table is dropped', async () => {
    // Hive writes the files; an external table over the same folder reads them.
    await createSchema(trino, { catalog: stagingCatalog, schema })
    const location = `s3://${s3.bucket}/${schema}/run=1/`
    const written: TableName = { catalog: stagingCatalog, schema, table: 'written' }
    const lines = String.raw`VALUES ('id,text'), ('1,"a, b"'), ('2,\N'), ('3,"back\slash ""quoted"""'), ('4,')`
    await trino.execute(
      `CREATE TABLE ${tableIdent(written)} (line varchar) WITH (format = 'TEXTFILE', external_location = '${location}', textfile_field_separator = U&'\\0003')`,
    )
    await trino.execute(`INSERT INTO ${tableIdent(written)} SELECT * FROM (${lines}) AS t(line)`)
    const stage: TableName = { catalog: stagingCatalog, schema, table: 'run_1' }
    for (const header of [true, false]) {
      await createExternalCsvTable(trino, stage, ['id', 'text'], location, { header })
      const { rows } = await trino.query(`SELECT id, text FROM ${tableIdent(stage)} ORDER BY id`, [], { rowMode: 'arrays' })
      expect(rows).toEqual([
        ['1', 'a, b'],
        ['2', String.raw`\N`],
        ['3', String.raw`back\slash "quoted"`],
        ['4', ''],
        ...(header ? [] : [['id', 'text']]),
      ])
      await dropTable(trino, stage)
    }
    await expect(trino.query(`SELECT * FROM ${tableIdent(stage)}`)).rejects.toMatchObject({ outcome: 'not-found' })
  })
})
