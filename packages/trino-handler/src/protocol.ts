import { parseExact } from './exact-json.ts'
import type { WireColumn } from './values.ts'

/** How far a statement has come. */
export interface TrinoStats {
  /** `QUEUED`, `PLANNING`, `RUNNING`, `FINISHING`, `FINISHED`, `FAILED` … */
  readonly state: string
  readonly nodes: number
  readonly totalSplits: number
  readonly queuedSplits: number
  readonly runningSplits: number
  readonly completedSplits: number
  /** Rows read from the sources. */
  readonly processedRows: number
  /** Bytes read from the sources, after decompression. */
  readonly processedBytes: number
  readonly physicalInputBytes: number
  readonly physicalWrittenBytes: number
  readonly peakMemoryBytes: number
  readonly spilledBytes: number
  readonly cpuTimeMs: number
  readonly queuedTimeMs: number
  readonly elapsedTimeMs: number
  /** 0 to 100; undefined while the server does not know all splits. */
  readonly percentage: number | undefined
}

/** A failure as the server reports it (`QueryError` in trino-client). */
export interface WireError {
  readonly message?: string
  readonly errorCode: number
  readonly errorName: string
  readonly errorType: string
  readonly errorLocation?: { readonly lineNumber: number; readonly columnNumber: number } | null
  readonly failureInfo?: WireFailure | null
}

/** The exception behind a failure. */
export interface WireFailure {
  readonly type?: string
  readonly message?: string | null
  readonly cause?: WireFailure | null
}

/** One answer of the statement protocol (https://trino.io/docs/current/develop/client-protocol.html). */
export interface WireReply {
  readonly id: string
  readonly infoUri?: string
  readonly nextUri?: string
  readonly columns?: readonly WireColumn[] | null
  readonly data?: unknown[][] | null
  readonly stats?: Readonly<Record<string, unknown>>
  readonly error?: WireError | null
  readonly updateType?: string | null
  readonly updateCount?: number | string | null
}

/** Undefined when the text is not an answer of the protocol. */
export function parseReply(text: string): WireReply | undefined {
  let reply: unknown
  try {
    reply = parseExact(text)
  } catch {
    return undefined
  }
  const isReply = typeof reply === 'object' && reply !== null && typeof (reply as { id?: unknown }).id === 'string'
  return isReply ? (reply as WireReply) : undefined
}

export function statsOf(wire: Readonly<Record<string, unknown>> = {}): TrinoStats {
  const count = (name: string): number => Number(wire[name] ?? 0)
  const { state, progressPercentage: percentage } = wire
  return {
    state: typeof state === 'string' ? state : 'UNKNOWN',
    nodes: count('nodes'),
    totalSplits: count('totalSplits'),
    queuedSplits: count('queuedSplits'),
    runningSplits: count('runningSplits'),
    completedSplits: count('completedSplits'),
    processedRows: count('processedRows'),
    processedBytes: count('processedBytes'),
    physicalInputBytes: count('physicalInputBytes'),
    physicalWrittenBytes: count('physicalWrittenBytes'),
    peakMemoryBytes: count('peakMemoryBytes'),
    spilledBytes: count('spilledBytes'),
    cpuTimeMs: count('cpuTimeMillis'),
    queuedTimeMs: count('queuedTimeMillis'),
    elapsedTimeMs: count('elapsedTimeMillis'),
    percentage: typeof percentage === 'number' ? percentage : undefined,
  }
}
