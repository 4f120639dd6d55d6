import type { CallOptions, CheckAttempt } from '@common-handlers/core'
import type { SqlRow } from './extraction.ts'

/** Statements of one row and one column each, a text. */
export interface LoginStatements {
  readonly version: string
  /** What may be read: `3 of 7 tables can be read`. */
  readonly rights: string
  /** One that costs the server nothing. */
  readonly nothing: string
}

interface SqlEngine {
  connect(options?: CallOptions): Promise<void>
  query(sql: string, parameters: readonly [], options?: CallOptions): Promise<readonly SqlRow[]>
}

/** The steps of a test after those of the network: log in, version, rights, latency. */
export function loginSteps(engine: SqlEngine, statements: LoginStatements, options?: CallOptions): CheckAttempt[] {
  const ask = async (sql: string): Promise<string> => {
    const [row] = await engine.query(sql, [], options)
    return Object.values(row ?? {}).join(', ')
  }
  const latency = async (): Promise<string> => {
    const began = performance.now()
    await ask(statements.nothing)
    return `${(performance.now() - began).toFixed(1)} ms`
  }
  return [
    { name: 'log in', run: () => engine.connect(options).then(() => undefined) },
    { name: 'version', run: () => ask(statements.version) },
    { name: 'rights', run: () => ask(statements.rights) },
    { name: 'latency', run: latency },
  ]
}
