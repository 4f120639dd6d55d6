import type { WireError } from './protocol.ts'
import { textOf, type TrinoTransport } from './transport.ts'

/**
 * What became of a query:
 * `queued` waits for its turn, `running` includes planning and committing, `finished` and `failed` are final.
 * `unknown`: the server has no such query. It was never followed, or the server has forgotten it or was restarted.
 */
export type QueryState = 'queued' | 'running' | 'finished' | 'failed' | 'unknown'

const states: Readonly<Record<string, QueryState>> = {
  QUEUED: 'queued',
  WAITING_FOR_PREREQUISITES: 'queued',
  WAITING_FOR_RESOURCES: 'queued',
  FINISHED: 'finished',
  FAILED: 'failed',
}

/** What the server knows of a query by its id. */
export interface QueryInfo {
  readonly state: QueryState
  readonly updateType: string | undefined
  readonly error: WireError | undefined
}

export const queryPath = (queryId: string): string => `/v1/query/${encodeURIComponent(queryId)}`

/** Undefined when the answer is none of the protocol. */
export async function queryInfo(transport: TrinoTransport, queryId: string, signal: AbortSignal): Promise<QueryInfo | undefined> {
  const uri = `${queryPath(queryId)}?pruned=true`
  const reply = await transport.send({ method: 'GET', uri, signal, expected: [200, 404, 410] })
  if (reply.status !== 200) return { state: 'unknown', updateType: undefined, error: undefined }
  const info = parseObject<{
    state: unknown
    updateType: string | null
    errorCode: { code: number; name: string; type: string } | null
    failureInfo: (WireError['failureInfo'] & { errorLocation?: WireError['errorLocation'] }) | null
  }>(textOf(reply))
  if (typeof info?.state !== 'string') return undefined
  const { errorCode, failureInfo } = info
  const error: WireError | undefined =
    errorCode === null || errorCode === undefined
      ? undefined
      : {
          message: failureInfo?.message ?? errorCode.name,
          errorCode: errorCode.code,
          errorName: errorCode.name,
          errorType: errorCode.type,
          errorLocation: failureInfo?.errorLocation ?? null,
          failureInfo: failureInfo ?? null,
        }
  return { state: states[info.state] ?? 'running', updateType: info.updateType ?? undefined, error }
}

/**
 * Why the server does not know where a statement stands any more: the error it ended with (it was abandoned, or
 * cancelled), or that the server was started after the statement. Undefined if that cannot be found out. Never throws.
 */
export async function endOfLost(
  transport: TrinoTransport,
  queryId: string,
  signal: AbortSignal,
): Promise<WireError | 'restarted' | undefined> {
  try {
    const info = await queryInfo(transport, queryId, signal)
    if (info?.error !== undefined) return info.error
    const reply = await transport.send({ method: 'GET', uri: '/v1/info', signal, expected: [200] })
    const uptimeMs = durationMs(parseObject<{ uptime: unknown }>(textOf(reply))?.uptime)
    const now = Date.parse(String(reply.headers['date']))
    const [, year, month, day, hour, minute, second] = /^(\d{4})(\d\d)(\d\d)_(\d\d)(\d\d)(\d\d)_/.exec(queryId) ?? []
    const madeAt = Date.parse(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`)
    // Both on the server's clock; its uptime is rounded. NaN makes it false.
    return now - uptimeMs * 1.01 > madeAt + 1_000 ? 'restarted' : undefined
  } catch {
    return undefined
  }
}

const UNITS: Readonly<Record<string, number>> = { ns: 1e-6, us: 1e-3, ms: 1, s: 1e3, m: 6e4, h: 3.6e6, d: 8.64e7 }

/** `5.31m` as the server writes it; NaN for anything else. */
function durationMs(text: unknown): number {
  const [, number, unit = ''] = /^([\d.]+)(\w+)$/.exec(String(text)) ?? []
  return Number(number) * (UNITS[unit] ?? Number.NaN)
}

/** A JSON object whose fields may be there; undefined for anything else. */
export function parseObject<Fields extends object>(text: string): Partial<Fields> | undefined {
  try {
    const value = JSON.parse(text) as Partial<Fields> | null
    return typeof value === 'object' && value !== null ? value : undefined
  } catch {
    return undefined
  }
}
