import { borrow, type ConnectionPool, type PoolClient } from './pool.ts'
import { watchSilence } from './silence.ts'

/** So long a loop keeps a connection at most while it works: the pool is to be able to let go of users and servers. */
const KEEP_MS = 60_000

export interface OwnConnectionOptions {
  readonly pool: ConnectionPool
  readonly connectTimeoutMs: number
  /** A statement that gets no answer for so long ends the connection. */
  readonly silenceMs: number
  readonly onSilent: (client: PoolClient) => void
  /** The connection that is held has ended, and not by the loop. */
  readonly onLost?: (() => void) | undefined
}

/** The connection that a loop works on. It is the pool's whenever the loop has nothing to do. */
export class OwnConnection {
  readonly #options: OwnConnectionOptions
  #client: PoolClient | undefined
  #unwatch: () => void = () => undefined
  #since = 0

  constructor(options: OwnConnectionOptions) {
    this.#options = options
  }

  async get(): Promise<PoolClient> {
    if (this.#client !== undefined && performance.now() - this.#since > KEEP_MS) this.release()
    if (this.#client !== undefined) return this.#client
    const { pool, connectTimeoutMs, silenceMs, onSilent } = this.#options
    const client = await borrow(pool, connectTimeoutMs, 'the worker')
    this.#unwatch = watchSilence(client, silenceMs, () => {
      onSilent(client)
      this.#lose()
    })
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
    this.#unwatch()
    client.off('end', this.#lose)
    client.off('error', this.#lose)
    // Without a listener the last words of one that is closed would end the process.
    if (destroy) client.on('error', () => undefined)
    client.release(destroy)
  }

  readonly #lose = (): void => {
    this.release(true)
    this.#options.onLost?.()
  }
}
