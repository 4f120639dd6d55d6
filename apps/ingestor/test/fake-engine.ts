import { ConnectionError } from '@common-handlers/core'
import type { CallSignal, Engine, EngineCheck, Fate, LoadAttempt, LoadPlan, PendingStatement } from '../src/engine.ts'
import type { Commit, Submission } from '../src/ledger.ts'

/** A statement as the warehouse knows it. */
interface Statement {
  readonly attempt: LoadAttempt
  state: 'registered' | 'running' | 'applied' | 'forgotten'
}

/**
 * A warehouse in memory, shared by every worker of a test: registers statements, runs them when they are followed, and
 * remembers what they did. It outlives the workers.
 */
export class Warehouse {
  readonly statements = new Map<string, Statement>()
  /** Run ids in the table, one for each time that a run was loaded. */
  table: { runId: string; rows: number; snapshotId: string }[] | undefined
  stages = new Set<string>()
  #next = 0

  submit(attempt: LoadAttempt): string {
    const id = `q${this.#next++}`
    this.statements.set(id, { attempt, state: 'registered' })
    return id
  }

  /** As Trino does it: a statement whose table over the files is gone cannot begin. */
  begin(id: string): void {
    const statement = this.statements.get(id)
    if (statement?.state !== 'registered' || !this.stages.has(stageOf(statement.attempt))) {
      throw new ConnectionError('the statement is gone', { code: 'FAKE_LOST', retry: 'if-idempotent' })
    }
    statement.state = 'running'
  }

  /** A running statement comes to its end, whether its worker lives or not. */
  apply(id: string, rows?: number): void {
    const statement = this.statements.get(id)
    if (statement?.state !== 'running') return
    statement.state = 'applied'
    const { manifest, method } = statement.attempt
    const commit = { runId: manifest.runId, rows: rows ?? manifest.totals.rows, snapshotId: `s-${id}` }
    this.table = method === 'replace' ? [commit] : [...(this.table ?? []), commit]
  }
}

export const stageOf = ({ manifest, attempt }: LoadAttempt): string => `${manifest.runId}_${attempt}`

export type Step = 'prepare' | 'stage' | 'submit' | 'follow' | 'applied' | 'settle' | 'unstage'

/** Engine of one worker. `at` may throw, wait or look at each step. */
export class FakeEngine implements Engine {
  readonly name = 'trino'
  readonly target = 'lake.audit.audit_log'
  readonly warehouse: Warehouse
  readonly steps: Step[] = []
  at: (step: Step, attempt: LoadAttempt) => Promise<void> | void = () => undefined
  /** Rows that arrive, where they differ from the manifest's. */
  arrives: number | undefined

  constructor(warehouse: Warehouse) {
    this.warehouse = warehouse
  }

  async #step(step: Step, attempt: LoadAttempt): Promise<void> {
    this.steps.push(step)
    await this.at(step, attempt)
  }

  ledgerName(): Promise<string> {
    return Promise.resolve(this.target)
  }
  exists(): Promise<boolean> {
    return Promise.resolve(this.warehouse.table !== undefined)
  }
  plan(): Promise<LoadPlan> {
    return Promise.resolve({ ddl: [], staging: [], statement: '' })
  }
  async prepare(attempt: LoadAttempt): Promise<void> {
    await this.#step('prepare', attempt)
    if (attempt.method !== 'replace') this.warehouse.table ??= []
  }
  async stage(attempt: LoadAttempt): Promise<void> {
    await this.#step('stage', attempt)
    this.warehouse.stages.add(stageOf(attempt))
  }
  async submit(attempt: LoadAttempt): Promise<PendingStatement> {
    await this.#step('submit', attempt)
    const { warehouse } = this
    const queryId = warehouse.submit(attempt)
    const forget = (): Promise<void> => {
      const statement = warehouse.statements.get(queryId)
      if (statement?.state === 'registered') statement.state = 'forgotten'
      return Promise.resolve()
    }
    return {
      submission: { queryId, submittedAt: new Date().toISOString(), baseSnapshotId: this.warehouse.table?.at(-1)?.snapshotId },
      follow: async ({ signal }) => {
        await this.#step('follow', attempt)
        signal.throwIfAborted()
        warehouse.begin(queryId)
        warehouse.apply(queryId, this.arrives)
        await this.#step('applied', attempt)
      },
      cancel: forget,
    }
  }
  async settle(attempt: LoadAttempt, submission: Submission, { signal }: CallSignal): Promise<Fate> {
    await this.#step('settle', attempt)
    signal.throwIfAborted()
    this.warehouse.stages.delete(stageOf(attempt))
    const statement = this.warehouse.statements.get(submission.queryId)
    if (statement?.state === 'running') this.warehouse.apply(submission.queryId)
    const snapshotId = `s-${submission.queryId}`
    const found = this.warehouse.table?.find((commit) => commit.snapshotId === snapshotId)
    return found === undefined ? { applied: false } : { applied: true, commit: { snapshotId, rows: found.rows } }
  }
  undo(_: LoadAttempt, __: Submission, commit: Commit): Promise<boolean> {
    if (this.warehouse.table?.at(-1)?.snapshotId !== commit.snapshotId) return Promise.resolve(false)
    this.warehouse.table?.pop()
    return Promise.resolve(true)
  }
  async unstage(attempt: LoadAttempt): Promise<void> {
    await this.#step('unstage', attempt)
    for (let number = attempt.attempt; number > 0; number--)
      this.warehouse.stages.delete(stageOf({ ...attempt, attempt: number }))
  }
  diagnose(_: LoadAttempt, error: unknown): Promise<unknown> {
    return Promise.resolve(error)
  }
  check(): Promise<EngineCheck> {
    return Promise.resolve({ results: [], advice: [] })
  }
  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve()
  }
}
