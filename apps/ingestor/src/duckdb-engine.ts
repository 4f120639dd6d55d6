import { randomUUID } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { access, mkdir, rm } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { fileURLToPath } from 'node:url'
import { CapacityError, ConfigError, ConflictError, DataError, HandlerError, type Logger } from '@common-handlers/core'
import { duckdbDecode, type Manifest, type ManifestColumn, runPrefix } from '@common-handlers/dataset'
import type { DuckDbHandler, DuckDbSession } from '@common-handlers/duckdb-handler'
import type { ObjectStore } from '@common-handlers/storage'
import type { DuckDbTargetConfig, IngestorConfig, TargetConfig } from './config.ts'
import { findBroken } from './diagnose.ts'
import type { CallSignal, Engine, EngineCheck, Fate, LoadAttempt, LoadPlan, PendingStatement } from './engine.ts'
import type { Submission } from './ledger.ts'
import { keyColumns } from './queue.ts'

/** The package itself; a type, so that nothing is loaded before it is asked for. */
type DuckDbPackage = typeof import('@common-handlers/duckdb-handler')

export interface DuckDbEngineOptions {
  readonly config: IngestorConfig
  readonly duckdb: DuckDbTargetConfig
  readonly store: ObjectStore
  readonly logger: Logger
  /** True to change nothing, not even make the file. */
  readonly readOnly: boolean
}

/** Loads DuckDB. @throws ConfigError `INGESTOR_DUCKDB_MISSING` where it is not installed, as in the image */
export async function openDuckDbEngine(options: DuckDbEngineOptions): Promise<Engine> {
  let duckdb: DuckDbPackage
  try {
    duckdb = await import('@common-handlers/duckdb-handler')
  } catch (cause) {
    if ((cause as { code?: unknown }).code !== 'ERR_MODULE_NOT_FOUND') throw cause
    throw new ConfigError('engine duckdb is not installed here: npm install @common-handlers/duckdb-handler', {
      code: 'INGESTOR_DUCKDB_MISSING',
      cause,
    })
  }
  return new DuckDbEngine(options, duckdb)
}

interface ExistingColumn {
  readonly name: string
  readonly type: string
  readonly nullable: boolean
}

/** One row for each load: written with the rows, or in place of them. */
const RUNS = '_ingest_runs'
/** One row: names this file in the ledger, so that a new file at the same path is loaded from the beginning. */
const WAREHOUSE = '_ingest_warehouse'
/** The name of a file that is not there yet. */
const NEW_FILE = 'new'

/**
 * Loads into a table of a DuckDB file. Rows and the proof of them (a row of `_ingest_runs`) are written in one
 * transaction, and counted before it is committed. A load that never was is marked there too, and cannot be made any more.
 */
class DuckDbEngine implements Engine {
  readonly name = 'duckdb'
  readonly target: string
  readonly #duckdb: DuckDbPackage
  readonly #database: DuckDbHandler
  readonly #store: ObjectStore
  readonly #logger: Logger
  readonly #config: TargetConfig
  readonly #path: string
  readonly #readOnly: boolean
  readonly #table: string

  constructor({ config, duckdb: options, store, logger, readOnly }: DuckDbEngineOptions, duckdb: DuckDbPackage) {
    this.#duckdb = duckdb
    this.#store = store
    this.#logger = logger
    this.#config = config.target
    this.#readOnly = readOnly
    this.#path = resolve(options.path)
    this.#database = new duckdb.DuckDbHandler({ ...options, readOnly, logger })
    const { schema, table } = config.target
    this.#table = `${duckdb.ident(schema)}.${duckdb.ident(table)}`
    this.target = `${options.path}: ${schema}.${table}`
  }

  async ledgerName({ signal }: CallSignal): Promise<string> {
    const { ledger, schema, table } = this.#config
    return ledger ?? `duckdb-${await this.#warehouseId(signal)}.${schema}.${table}`
  }

  async exists({ signal }: CallSignal): Promise<boolean> {
    return (await this.#columns(signal)) !== undefined
  }

  async plan(attempt: LoadAttempt, { signal }: CallSignal): Promise<LoadPlan> {
    const existing = await this.#columns(signal)
    const ddl = attempt.method === 'replace' || existing !== undefined ? [] : this.#ddl(attempt.manifest)
    return { ddl, staging: [], statement: this.#statement(attempt, existing) }
  }

  async prepare({ manifest, method }: LoadAttempt, { signal }: CallSignal): Promise<void> {
    assertDistinctNames(manifest)
    const existing = await this.#columns(signal)
    if (existing !== undefined) {
      if (method !== 'replace') fitColumns(manifest, existing, this.target)
      return
    }
    const [schema = '', ...table] = this.#ddl(manifest)
    await this.#database.execute(schema, [], { signal })
    if (method === 'replace') return
    for (const statement of table) await this.#database.execute(statement, [], { signal })
    this.#logger.info({ table: this.target }, 'made the table')
  }

  /** A folder of this machine is read where it is; other stores are copied here first. */
  async stage({ manifest }: LoadAttempt, { signal }: CallSignal): Promise<void> {
    if (this.#isFolder) return
    const folder = this.#downloads(manifest)
    await mkdir(folder, { recursive: true })
    for (const { name, bytes } of manifest.files) {
      const from = await this.#store.get(runPrefix(manifest.dataset, manifest.runId) + name, { signal })
      try {
        await pipeline(from, createWriteStream(join(folder, name)), { signal })
      } catch (error) {
        throw diskFull(error, folder, bytes)
      }
    }
  }

  submit(attempt: LoadAttempt): Promise<PendingStatement> {
    const submission = { queryId: randomUUID(), submittedAt: new Date().toISOString() }
    return Promise.resolve({
      submission,
      follow: ({ signal, onProgress }) => {
        onProgress?.({ detail: `${attempt.method} ${attempt.manifest.runId}` })
        return this.#load(attempt, submission, signal)
      },
      cancel: () => Promise.resolve(),
    })
  }

  async settle({ manifest, attempt }: LoadAttempt, { queryId }: Submission, { signal }: CallSignal): Promise<Fate> {
    await this.#makeBooks(signal)
    const find = (session: DuckDbSession): Promise<{ rows: { rows: bigint | null }[] }> =>
      session.query<{ rows: bigint | null }>(`SELECT "rows" FROM ${RUNS} WHERE load_id = ?`, [queryId])
    return this.#database.transaction(
      async (transaction) => {
        const found = (await find(transaction)).rows[0]
        if (found === undefined) {
          // Whoever still means to make this load finds its id taken.
          await transaction.execute(`INSERT INTO ${RUNS} VALUES (?, ?, ?, NULL, now())`, [
            queryId,
            manifest.runId,
            BigInt(attempt),
          ])
          return { applied: false }
        }
        return found.rows === null ? { applied: false } : { applied: true, commit: { rows: Number(found.rows) } }
      },
      { signal },
    )
  }

  /** Rows are counted before they are committed: there is nothing to take back. */
  undo(): Promise<boolean> {
    return Promise.resolve(false)
  }

  async unstage({ manifest }: LoadAttempt): Promise<void> {
    if (!this.#isFolder) await rm(this.#downloads(manifest), { recursive: true, force: true })
  }

  async diagnose({ manifest }: LoadAttempt, error: unknown, { signal }: CallSignal): Promise<unknown> {
    if (!HandlerError.is(error) || error.outcome !== 'data' || error.code.startsWith('INGESTOR_')) return error
    return (await findBroken(this.#store, manifest, { signal, cause: error })) ?? error
  }

  async check({ signal }: CallSignal): Promise<EngineCheck> {
    if (this.#readOnly && !(await this.#isThere())) {
      const step = { name: 'find the file', ok: true, durationMs: 0, detail: 'it is not there yet; the first run makes it' }
      return { results: [{ target: this.#path, ok: true, durationMs: 0, steps: [step] }], advice: [] }
    }
    return { results: [await this.#database.check({ signal })], advice: [] }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#database.close()
  }

  get #isFolder(): boolean {
    return this.#store.url.startsWith('file:')
  }

  /** Beside the database, whose lock keeps other processes out of it. */
  #downloads(manifest: Manifest): string {
    return join(`${this.#path}.ingest`, manifest.runId)
  }

  #ddl(manifest: Manifest): string[] {
    const { ident } = this.#duckdb
    const columns = manifest.columns.map(({ name, targets }) => `${ident(name)} ${targets.duckdb.type}`)
    return [
      `CREATE SCHEMA IF NOT EXISTS ${ident(this.#config.schema)}`,
      `CREATE TABLE IF NOT EXISTS ${this.#table} (${columns.join(', ')})`,
    ]
  }

  async #load(attempt: LoadAttempt, { queryId }: Submission, signal: AbortSignal): Promise<void> {
    const { manifest, method } = attempt
    await this.#makeBooks(signal)
    await this.#database.transaction(
      async (transaction) => {
        const statement = this.#statement(attempt, await this.#columns(signal, transaction))
        const { rowsChanged } = await transaction.execute(statement)
        const arrived = method === 'replace' ? await this.#count(transaction) : rowsChanged
        const expected = manifest.totals.rows
        if (arrived !== expected) {
          throw new DataError(
            `run ${manifest.runId} holds ${expected} rows by its manifest, but ${arrived} arrived; ${this.target} is as it was before`,
            {
              code: 'INGESTOR_ROWS_DIFFER',
              context: { runId: manifest.runId, expected, arrived, undone: true },
            },
          )
        }
        await transaction.execute(`INSERT INTO ${RUNS} VALUES (?, ?, ?, ?, now())`, [
          queryId,
          manifest.runId,
          BigInt(attempt.attempt),
          BigInt(arrived),
        ])
      },
      { signal },
    )
  }

  async #count(session: DuckDbSession): Promise<number> {
    const { rows } = await session.query<{ count: bigint }>(`SELECT count(*) AS count FROM ${this.#table}`)
    return Number(rows[0]?.count ?? -1)
  }

  #statement({ manifest, method }: LoadAttempt, existing: readonly ExistingColumn[] | undefined): string {
    const { ident } = this.#duckdb
    const columns =
      method === 'replace' || existing === undefined ? manifest.columns : fitColumns(manifest, existing, this.target)
    const rows = this.#rows(manifest, columns)
    const names = columns.map(({ name }) => ident(name))
    if (method === 'replace') return `CREATE OR REPLACE TABLE ${this.#table} AS ${rows}`
    if (method === 'append') return `INSERT INTO ${this.#table} (${names.join(', ')}) ${rows}`
    const keys = keyColumns(manifest)
    const others = columns.filter(({ name }) => !keys.includes(name))
    const updated = others.length > 0 ? others : columns
    return [
      `MERGE INTO ${this.#table} AS t USING (${rows}) AS s`,
      `ON ${keys.map((key) => `t.${ident(key)} = s.${ident(key)}`).join(' AND ')}`,
      `WHEN MATCHED THEN UPDATE SET ${updated.map(({ name }) => `${ident(name)} = s.${ident(name)}`).join(', ')}`,
      `WHEN NOT MATCHED THEN INSERT (${names.join(', ')}) VALUES (${names.map((name) => `s.${name}`).join(', ')})`,
    ].join(' ')
  }

  /** The decoded rows of the files, in the types of the columns. */
  #rows(manifest: Manifest, columns: readonly ManifestColumn[]): string {
    const { ident, readCsv } = this.#duckdb
    const { dialect, null: nullText } = manifest.format
    if (manifest.files.length === 0) {
      return `SELECT ${columns.map(({ name, targets }) => `CAST(NULL AS ${targets.duckdb.type}) AS ${ident(name)}`).join(', ')} WHERE false`
    }
    const folder = this.#isFolder
      ? join(fileURLToPath(this.#store.url), runPrefix(manifest.dataset, manifest.runId))
      : this.#downloads(manifest)
    const paths = manifest.files.map(({ name }) => join(folder, name))
    const raw = columns.map((_, index) => `c${index}`)
    const list = columns.map((column, index) => `${duckdbDecode(column, { raw: `c${index}`, dialect })} AS ${ident(column.name)}`)
    return `SELECT ${list.join(', ')} FROM ${readCsv(paths, raw, { null: nullText })}`
  }

  /** The columns of the target; undefined when it is not there. */
  async #columns(signal: AbortSignal, session: DuckDbSession = this.#database): Promise<ExistingColumn[] | undefined> {
    if (this.#readOnly && !(await this.#isThere())) return undefined
    const { rows } = await session.query<ExistingColumn>(
      `SELECT column_name AS name, data_type AS type, is_nullable AS nullable FROM duckdb_columns()
       WHERE database_name = current_database() AND lower(schema_name) = lower(?) AND lower(table_name) = lower(?) ORDER BY column_index`,
      [this.#config.schema, this.#config.table],
      { signal },
    )
    return rows.length === 0 ? undefined : rows
  }

  async #isThere(): Promise<boolean> {
    return access(this.#path).then(
      () => true,
      () => false,
    )
  }

  async #warehouseId(signal: AbortSignal): Promise<string> {
    if (this.#readOnly) {
      if (!(await this.#isThere())) return NEW_FILE
      const known = await this.#database.query(`SELECT 1 AS found FROM duckdb_tables() WHERE table_name = ?`, [WAREHOUSE], {
        signal,
      })
      if (known.rows.length === 0) return NEW_FILE
    } else {
      await makeFolder(dirname(this.#path))
      await this.#makeBooks(signal)
    }
    const { rows } = await this.#database.query<{ id: string }>(`SELECT id FROM ${WAREHOUSE}`, [], { signal })
    return rows[0]?.id ?? NEW_FILE
  }

  async #makeBooks(signal: AbortSignal): Promise<void> {
    await this.#database.transaction(
      async (transaction) => {
        await transaction.execute(`CREATE TABLE IF NOT EXISTS ${WAREHOUSE} (id VARCHAR)`)
        await transaction.execute(
          `CREATE TABLE IF NOT EXISTS ${RUNS} (load_id VARCHAR PRIMARY KEY, run_id VARCHAR, attempt BIGINT, "rows" BIGINT, written_at TIMESTAMPTZ)`,
        )
        await transaction.execute(`INSERT INTO ${WAREHOUSE} SELECT ? WHERE NOT EXISTS (FROM ${WAREHOUSE})`, [
          randomUUID().slice(0, 8),
        ])
      },
      { signal },
    )
  }
}

/** As `fitColumns` of the Trino engine, by DuckDB's types. */
function fitColumns(manifest: Manifest, existing: readonly ExistingColumn[], target: string): ManifestColumn[] {
  const byName = new Map(existing.map((column) => [column.name.toLowerCase(), column]))
  const fitted = manifest.columns.map((column) => {
    const found = byName.get(column.name.toLowerCase())
    const needed = column.targets.duckdb.type
    if (found === undefined) {
      throw new ConflictError(
        `${target} has no column "${column.name}", which the run has: ALTER TABLE … ADD COLUMN "${column.name}" ${needed}`,
        {
          code: 'INGESTOR_COLUMN_MISSING',
          context: { column: column.name, type: needed },
        },
      )
    }
    byName.delete(column.name.toLowerCase())
    if (found.type !== 'VARCHAR' && normalType(found.type) !== normalType(needed)) {
      throw new ConflictError(
        `column "${column.name}" of ${target} is ${found.type}, which cannot hold this run's ${needed} exactly: ` +
          'extract in full and load with write: replace, or load into another table',
        { code: 'INGESTOR_COLUMN_TYPE', context: { column: column.name, existing: found.type, needed } },
      )
    }
    return { ...column, targets: { ...column.targets, duckdb: { ...column.targets.duckdb, type: found.type } } }
  })
  const required = [...byName.values()].find((column) => !column.nullable)
  if (required !== undefined) {
    throw new ConflictError(`${target} has a column "${required.name}" that must not be null, and the run has no such column`, {
      code: 'INGESTOR_COLUMN_REQUIRED',
      context: { column: required.name },
    })
  }
  return fitted
}

const normalType = (type: string): string =>
  type.toUpperCase().replace(/\s+/g, ' ').replace('TIMESTAMPTZ', 'TIMESTAMP WITH TIME ZONE')

/** DuckDB compares names without case, as Trino does. */
function assertDistinctNames(manifest: Manifest): void {
  const names = manifest.columns.map(({ name }) => name.toLowerCase())
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice === undefined) return
  throw new ConflictError(
    `two columns are called "${twice}" but for their capitals, which DuckDB does not tell apart: rename one in the extractor`,
    {
      code: 'INGESTOR_COLUMN_NAMES',
      context: { column: twice },
    },
  )
}

/** `EFBIG`: the limit of this process (`ulimit -f`), which is the same for whoever waits for room. */
const FULL = new Set(['ENOSPC', 'EDQUOT', 'EFBIG'])

function diskFull(error: unknown, folder: string, bytes: number): unknown {
  if (!FULL.has(String((error as { code?: unknown }).code))) return error
  return new CapacityError(
    `${folder} has no room for a file of ${bytes} bytes: free room there, or give duckdb.path on another disk. Nothing was loaded`,
    {
      code: 'INGESTOR_DISK_FULL',
      context: { folder, bytes },
      cause: error,
    },
  )
}

/** @throws ConfigError `INGESTOR_FOLDER_UNUSABLE` */
async function makeFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true })
  } catch (error) {
    throw new ConfigError(
      `duckdb.path: the folder ${folder} cannot be made (${(error as Error).message}): give another one, or the right to make it`,
      { code: 'INGESTOR_FOLDER_UNUSABLE', cause: error },
    )
  }
}
