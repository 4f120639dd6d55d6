import { ConflictError, HandlerError, type Logger, sleep } from '@common-handlers/core'
import { type Manifest, type ManifestColumn, runPrefix } from '@common-handlers/dataset'
import type { ObjectStore } from '@common-handlers/storage'
import {
  createExternalCsvTable,
  createSchema,
  createTable,
  currentSnapshot,
  dropTable,
  type IcebergSnapshot,
  ident,
  literal,
  snapshotByQueryId,
  tableColumns,
  tableIdent,
  type TableName,
  TrinoHandler,
  trinoErrorFacts,
  type TrinoStats,
} from '@common-handlers/trino-handler'
import type { IngestorConfig, TargetConfig, TrinoTargetConfig } from './config.ts'
import { findBroken } from './diagnose.ts'
import type { CallSignal, Engine, EngineCheck, Fate, LoadAttempt, LoadPlan, LoadProgress, PendingStatement } from './engine.ts'
import type { Commit, Submission } from './ledger.ts'
import { needsTranscoding, removeCopies, stagePrefix, transcodeRun } from './staged-copies.ts'
import { checkTrino, stagingFailed } from './trino-check.ts'
import {
  appendStatement,
  assertDistinctNames,
  BROKEN_ROW,
  fitColumns,
  mergeStatement,
  newColumns,
  rawColumns,
  replaceStatement,
  selectRows,
} from './trino-sql.ts'

const POLL_MS = 1_000
/** Time for a catalog to finish a commit whose answer Trino did not get. */
const COMMIT_GRACE_MS = 5_000

export interface TrinoEngineOptions {
  readonly config: IngestorConfig
  readonly trino: TrinoTargetConfig
  readonly store: ObjectStore
  readonly logger: Logger
}

/**
 * Loads into an Iceberg table: Trino reads the files of the run where they lie, through an external table, and makes
 * the rows visible by one statement. The snapshot of that statement carries its query id, which is the proof of it.
 */
export class TrinoEngine implements Engine {
  readonly name = 'trino'
  readonly target: string
  readonly #trino: TrinoHandler
  readonly #store: ObjectStore
  readonly #logger: Logger
  readonly #config: TargetConfig
  readonly #table: TableName
  readonly #staging: Pick<TableName, 'catalog' | 'schema'>
  readonly #ledgerName: string
  readonly #waitMs: number

  constructor({ config, trino, store, logger }: TrinoEngineOptions) {
    const { stagingCatalog, stagingSchema, ...connection } = trino
    const { catalog = '', schema, table } = config.target
    this.#trino = new TrinoHandler({ ...connection, logger })
    this.#store = store
    this.#logger = logger
    this.#config = config.target
    this.#table = { catalog, schema, table }
    this.#staging = { catalog: stagingCatalog, schema: stagingSchema }
    this.#waitMs = config.recovery.waitSeconds * 1000
    this.target = `${catalog}.${schema}.${table}`
    // Trino knows names in lower case alone: two spellings are one table.
    this.#ledgerName = config.target.ledger ?? this.target.toLowerCase()
  }

  ledgerName(): Promise<string> {
    return Promise.resolve(this.#ledgerName)
  }

  async exists({ signal }: CallSignal): Promise<boolean> {
    return (await tableColumns(this.#trino, this.#table, { signal })) !== undefined
  }

  async plan(attempt: LoadAttempt, { signal }: CallSignal): Promise<LoadPlan> {
    const existing = await tableColumns(this.#trino, this.#table, { signal })
    const { manifest, method } = attempt
    const location = this.#location(manifest)
    const ddl = [
      ...((await this.#schemaExists(this.#table, signal))
        ? []
        : [`CREATE SCHEMA ${ident(this.#table.catalog, this.#table.schema)}`]),
      ...(existing === undefined && method !== 'replace'
        ? [
            `CREATE TABLE ${tableIdent(this.#table)} (${newColumns(manifest)
              .map(({ name, type }) => `${ident(name)} ${type}`)
              .join(', ')})`,
          ]
        : []),
    ]
    const staging = `CREATE TABLE ${tableIdent(this.#stageTable(attempt))} (${rawColumns(manifest).join(', ')}: varchar) over ${location}`
    return { ddl, staging: [staging], statement: this.#statement(attempt, existing) }
  }

  async prepare({ manifest, method }: LoadAttempt, { signal }: CallSignal): Promise<void> {
    assertDistinctNames(manifest)
    const existing = await tableColumns(this.#trino, this.#table, { signal })
    if (existing !== undefined) {
      if (method !== 'replace') fitColumns(manifest, existing, this.target)
      return
    }
    if (!(await this.#schemaExists(this.#table, signal))) await createSchema(this.#trino, this.#table, { signal })
    if (method === 'replace') return
    const { partitioning, sortedBy } = this.#config
    await createTable(this.#trino, this.#table, newColumns(manifest), { partitioning, sortedBy, signal })
    this.#logger.info({ table: this.target }, 'made the table')
  }

  async stage(attempt: LoadAttempt, { signal }: CallSignal): Promise<void> {
    const { manifest } = attempt
    if (needsTranscoding(manifest)) await transcodeRun(this.#store, manifest, this.#ledgerName, { signal })
    const table = this.#stageTable(attempt)
    try {
      if (!(await this.#schemaExists(table, signal))) await createSchema(this.#trino, table, { signal })
      // An attempt has a name of its own; what bears it is the work of this attempt, cut off before it was done.
      await dropTable(this.#trino, table, { signal })
      await createExternalCsvTable(this.#trino, table, rawColumns(manifest), this.#location(manifest), { signal })
    } catch (error) {
      throw stagingFailed(error, this.#staging.catalog)
    }
  }

  async submit(attempt: LoadAttempt, { signal }: CallSignal): Promise<PendingStatement> {
    const existing = await tableColumns(this.#trino, this.#table, { signal })
    const base = existing === undefined ? undefined : await currentSnapshot(this.#trino, this.#table, { signal })
    const submitted = await this.#trino.submit(this.#statement(attempt, existing), [], { signal })
    const { queryId, nextUri } = submitted.handle
    return {
      submission: {
        queryId,
        nextUri,
        submittedAt: new Date().toISOString(),
        ...(base === undefined ? {} : { baseSnapshotId: String(base.snapshotId) }),
      },
      follow: async ({ signal: following, onProgress }) => {
        const report = onProgress && ((stats: TrinoStats) => onProgress(progressOf(stats, attempt)))
        try {
          await submitted.follow({ signal: following, onProgress: report })
        } catch (error) {
          if (commitIsUnknown(error)) await sleep(COMMIT_GRACE_MS, following)
          throw error
        }
      },
      cancel: () => submitted.cancel(),
    }
  }

  /**
   * 1. The table over the files is dropped: a statement that has not begun can then never begin.
   * 2. A snapshot with the query's id: applied.
   * 3. A query that still runs (its worker is dead, it is not) is waited for, then cancelled.
   * 4. Cancelled by its address as well, which forgets one that was never begun; then it is looked for once more.
   * 5. Not there, and the table's history since the statement was submitted is complete: never applied.
   */
  async settle(attempt: LoadAttempt, submission: Submission, { signal }: CallSignal): Promise<Fate> {
    await dropTable(this.#trino, this.#stageTable(attempt), { signal })
    const before = await this.#commitOf(submission, signal)
    if (before !== undefined) return { applied: true, commit: before }
    await this.#untilEnded(submission, signal)
    const after = await this.#commitOf(submission, signal)
    if (after !== undefined) return { applied: true, commit: after }
    if (!(await this.#historyIsComplete(submission, signal))) throw cannotBeProved(attempt.manifest, submission, this.target)
    return { applied: false }
  }

  async undo(_: LoadAttempt, submission: Submission, commit: Commit, { signal }: CallSignal): Promise<boolean> {
    const current = await currentSnapshot(this.#trino, this.#table, { signal })
    if (current !== undefined && String(current.snapshotId) !== commit.snapshotId) {
      return !(await this.#isAncestor(commit.snapshotId ?? '', signal))
    }
    if (submission.baseSnapshotId === undefined) {
      // It made the table: without it there was none.
      await dropTable(this.#trino, this.#table, { signal })
      return true
    }
    const { catalog, schema, table } = this.#table
    await this.#trino.execute(
      `ALTER TABLE ${ident(catalog, schema, table)} EXECUTE rollback_to_snapshot(${BigInt(submission.baseSnapshotId)})`,
      [],
      { signal },
    )
    return true
  }

  async unstage(attempt: LoadAttempt, { signal }: CallSignal): Promise<void> {
    if (await this.#schemaExists(this.#staging, signal)) {
      for (let number = attempt.attempt; number > 0; number--) {
        await dropTable(this.#trino, this.#stageTable({ ...attempt, attempt: number }), { signal })
      }
    }
    if (needsTranscoding(attempt.manifest)) await removeCopies(this.#store, attempt.manifest, this.#ledgerName, { signal })
  }

  async diagnose(attempt: LoadAttempt, error: unknown, { signal }: CallSignal): Promise<unknown> {
    // What Trino blames on the data, or on the statement, which it may have meant of a value.
    if (!HandlerError.is(error) || (error.outcome !== 'data' && trinoErrorFacts(error)?.errorType !== 'USER_ERROR')) return error
    if (error.code.startsWith('INGESTOR_')) return error
    const { message } = error
    const at = message.indexOf(BROKEN_ROW)
    const suspect = at < 0 ? undefined : attempt.manifest.files.find((file) => message.includes(`/${file.name}`, at))
    const found = await findBroken(this.#store, attempt.manifest, { signal, cause: error, suspect: suspect?.name })
    return found ?? error
  }

  async check({ signal }: CallSignal): Promise<EngineCheck> {
    return checkTrino({ trino: this.#trino, table: this.#table, staging: this.#staging, location: `${this.#store.url}/` }, signal)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#trino.close()
  }

  #stageTable({ manifest, attempt }: LoadAttempt): TableName {
    const names = [this.#table.schema, this.#table.table, manifest.runId, attempt].join('_')
    return { ...this.#staging, table: names.toLowerCase().replace(/[^a-z0-9_]+/g, '_') }
  }

  #location(manifest: Manifest): string {
    const folder = needsTranscoding(manifest)
      ? stagePrefix(manifest, this.#ledgerName)
      : runPrefix(manifest.dataset, manifest.runId)
    return `${this.#store.url}/${folder}`
  }

  #statement(attempt: LoadAttempt, existing: Awaited<ReturnType<typeof tableColumns>>): string {
    const { manifest, method } = attempt
    const fitted: readonly ManifestColumn[] =
      method === 'replace' || existing === undefined ? manifest.columns : fitColumns(manifest, existing, this.target)
    const rows = selectRows(fitted, this.#stageTable(attempt))
    if (method === 'replace') return replaceStatement(this.#table, rows, this.#config)
    return method === 'merge' ? mergeStatement(this.#table, fitted, rows, manifest) : appendStatement(this.#table, fitted, rows)
  }

  async #schemaExists({ catalog, schema }: Pick<TableName, 'catalog' | 'schema'>, signal: AbortSignal): Promise<boolean> {
    const { rows } = await this.#trino.query(
      `SELECT 1 AS found FROM ${ident(catalog, 'information_schema', 'schemata')} WHERE schema_name = ${literal(schema.toLowerCase())}`,
      [],
      { signal },
    )
    return rows.length > 0
  }

  async #commitOf({ queryId }: Submission, signal: AbortSignal): Promise<Commit | undefined> {
    const snapshot = await this.#ifThere(() => snapshotByQueryId(this.#trino, this.#table, queryId, { signal }), signal)
    return snapshot && commitOf(snapshot)
  }

  async #untilEnded({ queryId, nextUri }: Submission, signal: AbortSignal): Promise<void> {
    const end = Date.now() + this.#waitMs
    for (let told = false; Date.now() < end; told = true) {
      const state = await this.#trino.queryState(queryId, { signal })
      if (state === 'finished' || state === 'failed' || state === 'unknown') break
      if (!told) this.#logger.info({ queryId, state }, 'the statement still runs; waiting for its end')
      await sleep(POLL_MS, signal)
    }
    await this.#trino.cancel(nextUri === undefined ? queryId : { queryId, nextUri }, { signal })
  }

  /**
   * Whether a snapshot made since the statement was submitted would still be listed: the snapshot from before it is
   * there, or, when there was none, no listed snapshot has lost the one before it.
   */
  async #historyIsComplete({ baseSnapshotId }: Submission, signal: AbortSignal): Promise<boolean> {
    const snapshots = tableIdent(this.#table, '$snapshots')
    const question =
      baseSnapshotId === undefined
        ? `SELECT count(*) = 0 AS complete FROM ${snapshots} WHERE parent_id NOT IN (SELECT snapshot_id FROM ${snapshots})`
        : `SELECT count(*) > 0 AS complete FROM ${snapshots} WHERE snapshot_id = ${BigInt(baseSnapshotId)}`
    const answer = await this.#ifThere(() => this.#trino.query<{ complete: boolean }>(question, [], { signal }), signal)
    // No table: nothing was applied to it; a table that was there has taken its history with it.
    if (answer === undefined) return baseSnapshotId === undefined
    return answer.rows[0]?.complete === true
  }

  /**
   * What is found about the table; undefined when it is not there. That is asked first: of a table that is not there, some
   * catalogs answer a question for its snapshots with a failure.
   */
  async #ifThere<T>(work: () => Promise<T>, signal: AbortSignal): Promise<T | undefined> {
    return (await this.exists({ signal })) ? await orUndefined(work) : undefined
  }

  async #isAncestor(snapshotId: string, signal: AbortSignal): Promise<boolean> {
    const { catalog, schema, table } = this.#table
    const { rows } = await this.#trino.query(
      `SELECT 1 AS found FROM ${ident(catalog, schema, `${table}$history`)} WHERE snapshot_id = ${BigInt(snapshotId)} AND is_current_ancestor`,
      [],
      { signal },
    )
    return rows.length > 0
  }
}

const commitOf = (snapshot: IcebergSnapshot): Commit => ({
  snapshotId: String(snapshot.snapshotId),
  rows: Number(snapshot.addedRecords),
})

function progressOf(stats: TrinoStats, { method, manifest }: LoadAttempt): LoadProgress {
  const detail = `${stats.state} ${stats.completedSplits}/${stats.totalSplits} splits`
  // A merge reads the table as well: its rows say nothing of how far the run has come.
  return method === 'merge' ? { detail } : { rows: Math.min(stats.processedRows, manifest.totals.rows), detail }
}

function commitIsUnknown(error: unknown): boolean {
  return HandlerError.is(error) && error.code === 'TRINO_ICEBERG_COMMIT_ERROR' && error.retry === 'if-idempotent'
}

/** What a table that is not there answers. */
async function orUndefined<T>(work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work()
  } catch (error) {
    if (['TABLE_NOT_FOUND', 'SCHEMA_NOT_FOUND'].includes(trinoErrorFacts(error)?.errorName ?? '')) return undefined
    throw error
  }
}

function cannotBeProved(manifest: Manifest, { queryId, submittedAt }: Submission, target: string): ConflictError {
  return new ConflictError(
    `whether run ${manifest.runId} was loaded cannot be proved: its statement ${queryId} was submitted ${submittedAt}, ` +
      `and ${target} keeps no snapshots from that time (expired, or the table was made anew). Look whether its ${manifest.totals.rows} rows are ` +
      `in the table, then say so: run --assume-applied ${manifest.runId}, or run --assume-not-applied ${manifest.runId}`,
    { code: 'INGESTOR_CANNOT_BE_PROVED', context: { runId: manifest.runId, queryId, submittedAt } },
  )
}
