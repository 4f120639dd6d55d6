import { borrow, type ConnectionPool, type PoolClient } from './pool.ts'

/** So long a loop keeps a connection at most while it works: the pool is to be able to let go of users and servers. */
const KEEP_MS = 60_000

/** The connection that a loop works on. It is the pool's whenever the loop has nothing to do. */
export class OwnConnection {
  readonly #pool: ConnectionPool
  readonly #timeoutMs: number
  readonly #onLost: () => void
  #client: PoolClient | undefined
  #since = 0

  /** `onLost`: the connection that is held has ended, and not by the loop. */
  constructor(pool: ConnectionPool, timeoutMs: number, onLost: () => void = () => undefined) {
    this.#pool = pool
    this.#timeoutMs = timeoutMs
    this.#onLost = onLost
  }

  async get(): Promise<PoolClient> {
    if (this.#client !== undefined && performance.now() - this.#since > KEEP_MS) this.release()
    if (this.#client !== undefined) return this.#client
    const client = await borrow(this.#pool, this.#timeoutMs, 'the worker')
    client.on('error', this.#lose)
    client.on('end', this.#lose)
    this.#since = performance.now()
    return (this.#client = client)
  }

  /** Gives it back; with `true` it is closed, and what is open on it is rolled back. */
  release(destroy = false): void {
    const client = this.#client
    if (client === undefined) return
    this.#client = undefined
    client.off('end', this.#lose)
    client.off('error', this.#lose)
    // Without a listener the last words of one that is closed would end the process.
    if (destroy) client.on('error', () => undefined)
    client.release(destroy)
  }

  readonly #lose = (): void => {
    this.release(true)
    this.#onLost()
  }
}
