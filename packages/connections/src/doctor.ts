import { type CallOptions, type CheckResult, type ConfigTree, HandlerError, readConfigFile } from '@common-handlers/core'
import { connectionsFileUnusable, protocolMissing } from './errors.ts'

/** Connections by name: for each its protocol and the keys of that. */
export type NamedConnections = Readonly<Record<string, ConfigTree>>

export interface DoctorOptions extends CallOptions {
  /** Limit for each connection in milliseconds. Default 30 000. */
  readonly timeoutMs?: number | undefined
  /** How many are tried at a time. Default 8. */
  readonly parallel?: number | undefined
}

/** What was found out about one connection. */
export interface Diagnosis extends CheckResult {
  readonly name: string
  /** Empty where none is given. */
  readonly protocol: string
}

/** The answer of `doctor`, in the order of the connections given. */
export interface DoctorReport {
  readonly ok: boolean
  readonly durationMs: number
  readonly connections: readonly Diagnosis[]
}

const DEFAULT_LIMIT_MS = 30_000
const DEFAULT_PARALLEL = 8

/** Tries one connection: `testConnection`. */
type TryConnection = (protocol: string, config: ConfigTree, options: CallOptions) => Promise<CheckResult>

/** Tries all of them, several at a time. What fails is in the report; only an abort throws. */
export async function diagnose(
  connections: NamedConnections,
  options: DoctorOptions,
  protocols: readonly string[],
  test: TryConnection,
): Promise<DoctorReport> {
  const { signal, timeoutMs = DEFAULT_LIMIT_MS, parallel = DEFAULT_PARALLEL } = options
  const began = performance.now()
  const one = async (name: string, tree: ConfigTree): Promise<Diagnosis> => {
    const { protocol, ...config } = tree
    const start = performance.now()
    const named = typeof protocol === 'string' ? protocol : ''
    try {
      if (named === '') throw protocolMissing(protocols)
      return { name, protocol: named, ...(await test(named, config, { signal, timeoutMs })) }
    } catch (error) {
      signal?.throwIfAborted()
      const step = {
        name: HandlerError.is(error) && error.outcome === 'timeout' ? 'answer in time' : 'find the connector',
        ok: false,
      }
      const durationMs = performance.now() - start
      return {
        name,
        protocol: named,
        target: named,
        ok: false,
        durationMs,
        steps: [{ ...step, durationMs, error: described(error) }],
      }
    }
  }
  const waiting = Object.entries(connections).entries()
  const found: Diagnosis[] = []
  const work = async (): Promise<void> => {
    for (const [index, [name, tree]] of waiting) found[index] = await one(name, tree)
  }
  await Promise.all(Array.from({ length: Math.max(1, parallel) }, work))
  return { ok: found.every(({ ok }) => ok), durationMs: performance.now() - began, connections: found }
}

const described = (error: unknown): { code: string; message: string } => ({
  code: HandlerError.is(error) ? error.code : 'UNEXPECTED',
  message: error instanceof Error ? error.message : String(error),
})

/**
 * Reads a file (JSON or YAML) of several connections, which stand by name under `connections`, or of one, which is then
 * named by its protocol.
 * @throws ConfigError `CONNECTIONS_FILE_INVALID`, `CONFIG_FILE_UNREADABLE`
 */
export async function readConnections(file: string): Promise<NamedConnections> {
  const tree = await readConfigFile(file)
  if (typeof tree['protocol'] === 'string') return { [tree['protocol']]: tree }
  const { connections, ...more } = tree
  const unknown = Object.keys(more)[0]
  if (unknown !== undefined) throw connectionsFileUnusable(file, `unknown key "${unknown}" beside "connections"`)
  if (!isTree(connections)) throw connectionsFileUnusable(file, 'expected "connections" with names, or the "protocol" of one')
  for (const [name, one] of Object.entries(connections)) {
    if (!isTree(one)) throw connectionsFileUnusable(file, `connections.${name}: expected "protocol" and the keys of that`)
  }
  return connections as NamedConnections
}

const isTree = (value: unknown): value is ConfigTree => typeof value === 'object' && value !== null && !Array.isArray(value)
