import { ConflictError, DataError, HandlerError } from '@common-handlers/core'
import { z } from 'zod'

/** The version of the ledger's format that this program writes. A newer one is refused. */
export const LEDGER_VERSION = 1

/** How a run gets into the table: its rows are added, merged by the key of the dataset, or take the place of all that was there. */
export const methods = ['append', 'merge', 'replace'] as const
export type Method = (typeof methods)[number]

/** A statement that was handed to the engine. It was written down before the engine was told to run it. */
export interface Submission {
  /** The engine's own name for the statement: Trino's query id, for DuckDB the id of the load. */
  readonly queryId: string
  /** ISO 8601, in UTC. */
  readonly submittedAt: string
  /** Where the statement can be cancelled, also one that was never begun; names no user or password. */
  readonly nextUri?: string | undefined
  /** The table's newest snapshot just before; absent when the table had none. */
  readonly baseSnapshotId?: string | undefined
}

/** What became of a statement that was applied. */
export interface Commit {
  /** The snapshot that holds the rows; absent when the engine makes none. */
  readonly snapshotId?: string | undefined
  readonly rows: number
}

/** Why an attempt ended without a commit; kept for `status`. */
export interface Problem {
  readonly code: string
  readonly message: string
  readonly at: string
}

interface EntryBase {
  readonly version: typeof LEDGER_VERSION
  readonly dataset: string
  readonly runId: string
  readonly target: string
  /** Who wrote the entry last: host, process, and a random part that tells two lives of one process id apart. */
  readonly owner: string
  /** Differs in each write, so that a writer whose answer was lost knows its own write again. */
  readonly revision: string
  readonly method: Method
  /** Counts from 1; a takeover or a new try is a new attempt. */
  readonly attempt: number
  readonly updatedAt: string
  readonly problem?: Problem | undefined
}

/** Somebody works on the run; no statement of this attempt can have run. */
export interface ClaimedEntry extends EntryBase {
  readonly state: 'claimed'
  /** After this time another worker may take over. In the past: the claim was given back. */
  readonly leaseUntil: string
}

/** The statement may have run. */
export interface SubmittedEntry extends EntryBase {
  readonly state: 'submitted'
  readonly leaseUntil: string
  readonly submission: Submission
}

/** The rows are in the table, for good. */
export interface CommittedEntry extends EntryBase {
  readonly state: 'committed'
  readonly committedAt: string
  readonly commit: Commit
  /** Absent for a run without rows, for which no statement was needed. */
  readonly submission?: Submission | undefined
  /** Set when a person said so (`--assume-applied`) because it could not be proved. */
  readonly assumed?: boolean | undefined
}

/** A later run took the place of the whole table, so this one is not needed and must not be loaded any more. */
export interface SupersededEntry extends EntryBase {
  readonly state: 'superseded'
  /** The run that took its place. */
  readonly by: string
}

/** Nothing is left to do for these. */
export type DoneEntry = CommittedEntry | SupersededEntry

/** The ledger's object for one run and one target. */
export type LedgerEntry = ClaimedEntry | SubmittedEntry | DoneEntry

export function isDone(entry: LedgerEntry): entry is DoneEntry {
  return entry.state === 'committed' || entry.state === 'superseded'
}

const instant = z.iso.datetime()

const base = {
  version: z.literal(LEDGER_VERSION),
  dataset: z.string().min(1),
  runId: z.string().min(1),
  target: z.string().min(1),
  owner: z.string().min(1),
  revision: z.string().min(1),
  method: z.enum(methods),
  attempt: z.int().positive(),
  updatedAt: instant,
  problem: z.strictObject({ code: z.string(), message: z.string(), at: instant }).optional(),
}

const submissionSchema = z.strictObject({
  queryId: z.string().min(1),
  submittedAt: instant,
  nextUri: z.string().optional(),
  baseSnapshotId: z.string().optional(),
})

export const ledgerEntrySchema: z.ZodType<LedgerEntry> = z.discriminatedUnion('state', [
  z.strictObject({ ...base, state: z.literal('claimed'), leaseUntil: instant }),
  z.strictObject({ ...base, state: z.literal('submitted'), leaseUntil: instant, submission: submissionSchema }),
  z.strictObject({
    ...base,
    state: z.literal('committed'),
    committedAt: instant,
    commit: z.strictObject({ snapshotId: z.string().optional(), rows: z.int().nonnegative() }),
    submission: submissionSchema.optional(),
    assumed: z.boolean().optional(),
  }),
  z.strictObject({ ...base, state: z.literal('superseded'), by: z.string().min(1) }),
])

/** @throws DataError `INGESTOR_LEDGER_INVALID`, ConflictError `INGESTOR_LEDGER_NEWER` */
export function parseEntry(bytes: Uint8Array, key: string): LedgerEntry {
  let json: unknown
  try {
    json = JSON.parse(Buffer.from(bytes).toString('utf8'))
  } catch (cause) {
    throw invalid(key, 'it is not JSON', cause)
  }
  const version = (json as { version?: unknown } | null)?.version
  if (typeof version === 'number' && version > LEDGER_VERSION) {
    throw new ConflictError(
      `the ledger entry ${key} was written by a newer ingestor (format ${version}, this one knows ${LEDGER_VERSION}): use that one`,
      { code: 'INGESTOR_LEDGER_NEWER', context: { key, version } },
    )
  }
  const parsed = ledgerEntrySchema.safeParse(json)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  throw invalid(key, `${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`, parsed.error)
}

export function serializeEntry(entry: LedgerEntry): string {
  return `${JSON.stringify(entry, null, 2)}\n`
}

/** What `status` shows of an error; a message may be long, a ledger entry should not be. */
export function problemOf(error: unknown): Problem {
  const message = error instanceof Error ? error.message : String(error)
  return {
    code: HandlerError.is(error) ? error.code : 'UNEXPECTED',
    message: message.length > 500 ? `${message.slice(0, 500)}…` : message,
    at: new Date().toISOString(),
  }
}

function invalid(key: string, why: string, cause: unknown): DataError {
  return new DataError(`the ledger entry ${key} cannot be read: ${why}`, {
    code: 'INGESTOR_LEDGER_INVALID',
    where: { file: key },
    cause,
  })
}
