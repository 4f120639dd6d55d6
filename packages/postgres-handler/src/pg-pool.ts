import { onAbort } from '@common-handlers/core'
import type { EventEmitter } from 'node:events'
import type { Loan } from './pool.ts'

/** A result as pg gives it. */
export interface PgPoolResult {
  // oxlint-disable-next-line typescript/no-explicit-any -- as in pg
  readonly rows: any[]
  readonly rowCount: number | null
  readonly command: string
}

/** A connection on loan with the calls of pg's `PoolClient` that libraries use. Values are as pg reads them. */
export interface PgPoolClient {
  query(query: string | { readonly text: string; readonly values?: unknown[] }, values?: unknown[]): Promise<PgPoolResult>
  /** Gives it back. With `true` or an error, or in the middle of a transaction or a statement, it is closed. */
  release(destroy?: boolean | Error): void
  // oxlint-disable-next-line typescript/no-explicit-any -- as in pg
  on(event: string, listener: (...args: any[]) => void): this
  // oxlint-disable-next-line typescript/no-explicit-any -- as in pg
  off(event: string, listener: (...args: any[]) => void): this
  readonly processID: number | null
}

/** What libraries that take a `pg.Pool` ask of it. */
export interface PgPool {
  connect(): Promise<PgPoolClient>
}

/** `done` is called once, when the loan is over: when it is given back, or the signal is aborted. */
export function pgPoolClient(loan: Loan, signal: AbortSignal, done: () => void): PgPoolClient {
  const { client } = loan
  const query = client.query.bind(client) as unknown as PgPoolClient['query']
  // pg's types know its own events alone.
  const events: EventEmitter = client
  let over = false
  const lent: PgPoolClient = {
    query: (...call) => (over ? Promise.reject(new Error('the connection was given back')) : query(...call)),
    release(destroy) {
      if (over) return
      over = true
      forget()
      for (const [event, listener] of listening) events.off(event, listener)
      if (destroy !== undefined && destroy !== false) client.destroy()
      loan.release()
      done()
    },
    on(event, listener) {
      listening.push([event, listener])
      events.on(event, listener)
      return lent
    },
    off(event, listener) {
      events.off(event, listener)
      return lent
    },
    get processID() {
      return (client as unknown as { readonly processID: number | null }).processID
    },
  }
  const listening: [string, () => void][] = []
  const forget = onAbort(signal, () => lent.release(true))
  return lent
}
