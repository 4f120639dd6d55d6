import type { CheckResult } from '@common-handlers/core'
import type { Manifest } from '@common-handlers/dataset'
import type { Commit, Method, Submission } from './ledger.ts'

/** One try at getting one run into the target. */
export interface LoadAttempt {
  readonly manifest: Manifest
  readonly method: Method
  /** From 1; names everything the attempt makes, so that what a dead one left is found again. */
  readonly attempt: number
}

/** What would be done for a run, in the engine's own words. */
export interface LoadPlan {
  /** Statements that make schema and table; none when the table is there, or is made by the load itself. */
  readonly ddl: readonly string[]
  /** Statements that make the files readable. */
  readonly staging: readonly string[]
  /** The one statement that makes the rows visible. */
  readonly statement: string
}

/** How far a statement has come. */
export interface LoadProgress {
  readonly rows?: number | undefined
  readonly bytes?: number | undefined
  readonly detail?: string | undefined
}

/** A statement that is registered and has not begun. */
export interface PendingStatement {
  readonly submission: Submission
  /** Runs it to its end. An abort stops it on the server, as far as it can still be stopped. */
  follow(options: {
    readonly signal: AbortSignal
    readonly onProgress?: ((progress: LoadProgress) => void) | undefined
  }): Promise<void>
  /** Makes the engine forget it. Never throws. */
  cancel(): Promise<void>
}

/** What became of a statement: final, it cannot change any more. */
export type Fate = { readonly applied: true; readonly commit: Commit } | { readonly applied: false }

/** What `check` found out about one server or one right. */
export interface EngineCheck {
  readonly results: readonly CheckResult[]
  /** What to do about what is missing. */
  readonly advice: readonly string[]
}

export interface CallSignal {
  readonly signal: AbortSignal
}

/**
 * Where runs are loaded into. The order of the calls is the protocol (`load.ts`); an engine only has to keep two
 * promises: nothing of a statement happens before `follow()`, and after `settle()` its fate is final.
 */
export interface Engine extends AsyncDisposable {
  readonly name: 'trino' | 'duckdb'
  /** As a person calls it: `lake.audit.audit_log`. */
  readonly target: string
  /** Names the target in the ledger. Two names are two targets, each with its own account of what was loaded. */
  ledgerName(call: CallSignal): Promise<string>
  /** Whether the target table exists. */
  exists(call: CallSignal): Promise<boolean>
  /** What would be done; makes nothing. @throws ConflictError when the table cannot take the run */
  plan(attempt: LoadAttempt, call: CallSignal): Promise<LoadPlan>
  /** Makes schema and table when they are absent. @throws ConflictError when the table cannot take the run */
  prepare(attempt: LoadAttempt, call: CallSignal): Promise<void>
  /** Makes the files readable for this attempt's statement. */
  stage(attempt: LoadAttempt, call: CallSignal): Promise<void>
  /** Registers the one statement of the attempt. Nothing runs yet. */
  submit(attempt: LoadAttempt, call: CallSignal): Promise<PendingStatement>
  /**
   * Says what became of a statement, and makes that final: one that has not begun never will, one that runs is waited
   * for or cancelled. Works from another process than the one that submitted it.
   * @throws ConflictError `INGESTOR_CANNOT_BE_PROVED`
   */
  settle(attempt: LoadAttempt, submission: Submission, call: CallSignal): Promise<Fate>
  /** Takes a commit back whose rows are not those of the run; false when others have written since. */
  undo(attempt: LoadAttempt, submission: Submission, commit: Commit, call: CallSignal): Promise<boolean>
  /** Removes what this attempt and those before it made beside the target. */
  unstage(attempt: LoadAttempt, call: CallSignal): Promise<void>
  /** An error of the statement, told by the place in the file where the cause stands; the error itself when none is found. */
  diagnose(attempt: LoadAttempt, error: unknown, call: CallSignal): Promise<unknown>
  check(call: CallSignal): Promise<EngineCheck>
}
