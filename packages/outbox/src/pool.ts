import { ConnectionError, OperationTimeoutError } from '@common-handlers/core'

/** A query as `pg` takes it. */
export interface PoolQuery {
  readonly text: string
  readonly values?: unknown[]
  readonly rowMode?: 'array'
  readonly types?: { getTypeParser(oid: number, format?: string): (text: string) => unknown }
}

export interface PoolResult {
  // oxlint-disable-next-line typescript/no-explicit-any -- as in pg
  readonly rows: any[]
  readonly rowCount: number | null
  readonly command?: string
}

/** A connection on loan, as `pg` has it. */
export interface PoolClient {
  query(query: PoolQuery): Promise<PoolResult>
  query(text: string, values?: unknown[]): Promise<PoolResult>
  /** Gives it back; with `true` or an error it is closed and not used again. */
  release(destroy?: boolean | Error): void
  // oxlint-disable-next-line typescript/no-explicit-any -- as in pg
  on(event: string, listener: (...args: any[]) => void): unknown
  // oxlint-disable-next-line typescript/no-explicit-any -- as in pg
  off(event: string, listener: (...args: any[]) => void): unknown
  /** The backend's process id, as told at login. */
  readonly processID?: number | null
}

/** Anything that lends connections like `pg.Pool` does. Users, passwords and servers may change behind it. */
export interface ConnectionPool {
  connect(): Promise<PoolClient>
}

const asText = { getTypeParser: () => (text: string) => text }

/** Rows as arrays of PostgreSQL's own text, whatever parsers the pool's owner has set. */
export async function textRows(client: PoolClient, text: string, values: unknown[] = []): Promise<(string | null)[][]> {
  const { rows } = await client.query({ text, values, rowMode: 'array', types: asText })
  return rows as (string | null)[][]
}

/** Statements that go out in one message, separated by semicolons, with the answer to each. */
export async function textAnswers(client: PoolClient, text: string): Promise<readonly PoolResult[]> {
  const answers: PoolResult | readonly PoolResult[] = await client.query({ text, rowMode: 'array', types: asText })
  return Array.isArray(answers) ? (answers as readonly PoolResult[]) : [answers]
}

/** Connections whose errors end nobody's process. */
const heard = new WeakSet<PoolClient>()

/** @throws OperationTimeoutError `OUTBOX_CONNECT_TIMEOUT` @throws ConnectionError `OUTBOX_CONNECTION_FAILED` */
export async function borrow(pool: ConnectionPool, timeoutMs: number, purpose: string): Promise<PoolClient> {
  const connecting = pool.connect()
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      // What comes too late goes straight back.
      connecting.then(
        (client) => client.release(),
        () => undefined,
      )
      reject(
        new OperationTimeoutError(`no connection for ${purpose} within ${timeoutMs} ms`, {
          code: 'OUTBOX_CONNECT_TIMEOUT',
          retry: 'safe',
        }),
      )
    }, timeoutMs)
  })
  try {
    const client = await Promise.race([connecting, late])
    // One that ends between two statements is found out by the next; without a listener it would end the process.
    if (!heard.has(client)) client.on('error', () => undefined)
    heard.add(client)
    return client
  } catch (error) {
    if (error instanceof OperationTimeoutError) throw error
    throw new ConnectionError(`no connection for ${purpose}: ${error instanceof Error ? error.message : String(error)}`, {
      code: 'OUTBOX_CONNECTION_FAILED',
      retry: 'safe',
      cause: error,
    })
  } finally {
    clearTimeout(timer)
  }
}

/** Work on a connection of the pool, which is closed if the work fails. */
export async function onBorrowed<T>(
  pool: ConnectionPool,
  timeoutMs: number,
  purpose: string,
  work: (client: PoolClient) => Promise<T>,
): Promise<T> {
  const client = await borrow(pool, timeoutMs, purpose)
  // Whoever lost it is told by the statement that fails; without a listener it would end the process.
  const deaf = (): void => undefined
  client.on('error', deaf)
  let failure: Error | undefined
  try {
    return await work(client)
  } catch (error) {
    failure = error instanceof Error ? error : new Error(String(error))
    throw error
  } finally {
    if (failure === undefined) client.off('error', deaf)
    client.release(failure)
  }
}
