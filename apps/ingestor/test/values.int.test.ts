import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { extractorApp, type ExtractorConfigInput } from '@common-handlers/audit-log-extractor'
import { runApp } from '@common-handlers/cli'
import { silentLogger } from '@common-handlers/core'
import { copySettings } from '@common-handlers/dataset'
import { DuckDbHandler } from '@common-handlers/duckdb-handler'
import { PostgresHandler } from '@common-handlers/postgres-handler'
import { createDatabase, type PostgresAddress, runOnPostgres } from '@common-handlers/testkit'
import { describeWith } from '@common-handlers/testkit/vitest'
import { expect, it } from 'vitest'
import { ingestorConfigSchema } from '../src/config.ts'
import { ingest } from '../src/ingest.ts'
import { openSession } from '../src/session.ts'
import { trinoWorld } from './trino-world.ts'
import { canonical, createValues, inPostgresText, testedColumns } from './values.ts'

const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`

type Database = Awaited<ReturnType<typeof createDatabase>>

async function withValues(
  postgres: PostgresAddress,
  work: (database: Database, expected: (string | null)[][]) => Promise<void>,
): Promise<void> {
  const database = await createDatabase(postgres, 'values')
  try {
    await runOnPostgres(database, createValues())
    const { host, port, user, password, database: name } = database
    await using handler = new PostgresHandler({ host, port, user, password, database: name })
    // concat() spells a value as COPY does, by the type's own output; a cast to text takes the blanks off char(n).
    const list = testedColumns
      .map(({ name: column }) => quoted(column))
      .map((column) => `CASE WHEN ${column} IS NOT NULL THEN concat(${column}) END`)
    const rows = await handler.transaction(async (transaction) => {
      for (const [setting, value] of Object.entries(copySettings)) await transaction.execute(`SET LOCAL ${setting} = '${value}'`)
      return transaction.getRecords<{ cells: string }>(
        `SELECT array_to_json(ARRAY[${list.join(', ')}])::text AS cells FROM "values" ORDER BY id`,
      )
    })
    await work(
      database,
      rows.map((row) => JSON.parse(row.cells) as (string | null)[]),
    )
  } finally {
    await database.drop()
  }
}

/** Runs the extractor on the table. */
async function extract(database: Database, config: Pick<ExtractorConfigInput, 'store' | 's3' | 'output'>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'values-'))
  const { host, port, user, password, database: name } = database
  const file = join(folder, 'extractor.json')
  const full = {
    dataset: 'values',
    source: { table: 'values' },
    postgres: { host, port, user, password, database: name },
    ...config,
  }
  await writeFile(file, JSON.stringify(full))
  let log = ''
  const terminal = {
    argv: ['run', '--config', file],
    env: {},
    stdout: { write: () => true },
    stderr: { write: (text: string) => (log += text) },
  }
  const code = await runApp(extractorApp, terminal, new AbortController().signal)
  await rm(folder, { recursive: true })
  expect(code === 0 ? '' : log).toBe('')
}

/** What differs, by column and row: [column, row, expected, found]. */
function differences(expected: readonly (readonly (string | null)[])[], found: readonly (readonly unknown[])[]): unknown[] {
  expect(found.length).toBe(expected.length)
  return testedColumns.flatMap(({ name, type }, column) =>
    expected.flatMap((row, index) => {
      const should = canonical(row[column] ?? null, type)
      const is = canonical(inPostgresText(found[index]?.[column] ?? null, type), type)
      return should === is ? [] : [[name, index, short(should), short(is)]]
    }),
  )
}

const short = (value: string | null): string | null =>
  value !== null && value.length > 80 ? `${value.slice(0, 80)}… (${value.length})` : value

const dialects = ['one-row-a-line', 'rfc4180'] as const

describeWith(['postgres', 'trino'], 'every value, from PostgreSQL to Iceberg', ({ postgres, trino }) => {
  it.each(dialects)('is read back equal through Trino (%s)', async (dialect) => {
    await withValues(postgres, async (database, expected) => {
      await using world = await trinoWorld(trino, { change: { dataset: 'values', target: { table: 'values' } } })
      const { store, s3 } = world.input
      await extract(database, { store, ...(s3 === undefined ? {} : { s3 }), output: { dialect } })
      expect(await world.ingest()).toMatchObject([{ state: 'committed', rows: expected.length }])
      const list = testedColumns.map((column) => quoted(column.name))
      expect(differences(expected, await world.rows(`SELECT ${list.join(', ')} FROM ${world.table} ORDER BY id`))).toEqual([])
    })
  })
})

describeWith(['postgres'], 'every value, from PostgreSQL to DuckDB', ({ postgres }) => {
  it.each(dialects)('is read back equal (%s)', async (dialect) => {
    const folder = await mkdtemp(join(tmpdir(), 'values-'))
    await withValues(postgres, async (database, expected) => {
      const store = `file://${folder}/landing`
      await extract(database, { store, output: { dialect } })
      const path = join(folder, 'warehouse.duckdb')
      const config = ingestorConfigSchema.parse({
        dataset: 'values',
        store,
        engine: 'duckdb',
        target: { schema: 'main', table: 'values' },
        duckdb: { path },
      })
      {
        await using session = await openSession(config, silentLogger)
        expect(await ingest(session, { signal: new AbortController().signal })).toMatchObject([
          { state: 'committed', rows: expected.length },
        ])
      }
      await using warehouse = new DuckDbHandler({ path })
      const list = testedColumns.map(({ name, type }) => {
        const column = quoted(name)
        // As bytes: DuckDB's driver for JavaScript takes a byte order mark off the beginning of a text.
        if (type === 'text') return `encode(${column})`
        return /^(numeric|date|time|uuid|jsonb)/.test(type) ? `CAST(${column} AS VARCHAR)` : column
      })
      const { rows } = await warehouse.query(
        `SELECT ${list.map((column, index) => `${column} AS c${index}`).join(', ')} FROM "values" ORDER BY id`,
      )
      expect(
        differences(
          expected,
          rows.map((row) => testedColumns.map((_, index) => row[`c${index}`])),
        ),
      ).toEqual([])
    })
    await rm(folder, { recursive: true })
  })
})
