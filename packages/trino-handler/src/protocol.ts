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
  /** What is left at the speed until now, in milliseconds; undefined without a percentage. A guess, and an early one is a bad one. */
  readonly remainingTimeMs: number | undefined
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

/** One answer of the statement protocol (https://trino.io/docs/current/develop/client-protocol.html), without its rows. */
export interface WireReply {
  readonly id: string
  readonly infoUri?: string
  readonly nextUri?: string
  readonly columns?: readonly WireColumn[] | null
  readonly stats?: Readonly<Record<string, unknown>>
  readonly error?: WireError | null
  readonly updateType?: string | null
  readonly updateCount?: number | string | null
}

/** Rows of a direct result: as bytes that are still to be parsed (`[1],[2]`), or parsed already. */
export interface DirectRows {
  readonly kind: 'direct'
  readonly bytes: Buffer | undefined
  readonly parsed: unknown[][]
}

/** Rows of a spooled result. */
export interface SpooledRows {
  readonly kind: 'spooled'
  readonly encoding: string
  readonly segments: readonly WireSegment[]
}

export interface WireSegment {
  readonly type: string
  /** Of an inline segment: the bytes in Base64. */
  readonly data?: string
  readonly uri?: string
  readonly ackUri?: string
  readonly headers?: Readonly<Record<string, readonly string[]>>
  readonly metadata?: {
    readonly rowOffset?: number | string
    readonly rowsCount?: number | string
    readonly segmentSize?: number | string
    readonly uncompressedSize?: number | string
  }
}

export interface Answer {
  readonly reply: WireReply
  readonly rows: DirectRows | SpooledRows | undefined
}

const DATA = '"data":['
const STATS = ',"stats":{'
const CLOSE = 93

/**
 * Undefined when the body is not an answer of the protocol. The rows are cut out of it unparsed: neither mark can stand
 * within a text, where each quote has a backslash before it.
 */
export function parseAnswer(body: Buffer | object): Answer | undefined {
  if (!Buffer.isBuffer(body)) return answerOf(body)
  try {
    const data = body.indexOf(`${DATA}[`)
    const stats = data === -1 ? -1 : body.indexOf(STATS, data)
    if (stats === -1 || body[stats - 1] !== CLOSE) return answerOf(parseExact(body.toString()))
    const start = data + DATA.length
    const envelope = `${body.toString('utf8', 0, start)}${body.toString('utf8', stats - 1)}`
    const answer = answerOf(parseExact(envelope))
    return answer && { ...answer, rows: { kind: 'direct', bytes: body.subarray(start, stats - 1), parsed: [] } }
  } catch {
    return undefined
  }
}

function answerOf(value: unknown): Answer | undefined {
  if (typeof value !== 'object' || value === null) return undefined
  const { data, ...reply } = value as WireReply & { readonly data?: unknown }
  return typeof reply.id === 'string' ? { reply, rows: rowsOf(data) } : undefined
}

function rowsOf(data: unknown): Answer['rows'] {
  if (Array.isArray(data))
    return data.length === 0 ? undefined : { kind: 'direct', bytes: undefined, parsed: data as unknown[][] }
  if (typeof data !== 'object' || data === null) return undefined
  const { encoding, segments } = data as { encoding?: unknown; segments?: unknown }
  if (typeof encoding !== 'string' || !Array.isArray(segments)) return undefined
  return { kind: 'spooled', encoding, segments: segments as WireSegment[] }
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
    remainingTimeMs: remaining(percentage, count('elapsedTimeMillis') - count('queuedTimeMillis')),
  }
}

function remaining(percentage: unknown, runningMs: number): number | undefined {
  if (typeof percentage !== 'number' || percentage <= 0) return undefined
  return Math.round((runningMs * (100 - percentage)) / percentage)
}
