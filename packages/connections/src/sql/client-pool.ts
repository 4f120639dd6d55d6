import {
  type CallOptions,
  type Closable,
  type CloseOptions,
  HandlerError,
  Lifecycle,
  onAbort,
  withDeadline,
} from '@common-handlers/core'
import { connectTimeout, poolExhausted } from './errors.ts'

// Pools of drivers cannot be told that a caller has given up: neither while it waits nor while a connection is made.

/** A connection to a server: one call uses it at a time. */
export interface PooledClient {
  /** It is there, as far as is known, nothing runs on it, and it is as it was when it was made. */
  readonly reusable: boolean
  /** Resolves when nothing runs on it any more, or it has ended. */
  idle(): Promise<void>
  /** Ends what runs, on the server too, waits for that, and closes; in bounded time. */
  cancelAndClose(): Promise<void>
  close(): Promise<void>
}

export interface ClientPoolOptions<Client extends PooledClient> {
  /** Of the engine, for the error of a call after its end. */
  readonly name: string
  /** Of error codes. */
  readonly prefix: string
  /** For errors, without secrets: `user@host:port/database`. */
  readonly target: string
  /** Connections at most. */
  readonly max: number
  /** An idle connection is closed after so long. */
  readonly idleMs: number
  /** How long a connection may take to be made, and a call wait for one that others have. */
  readonly connectMs: number
  /** Logs in. @throws HandlerError, the signal's reason */
  connect(signal: AbortSignal): Promise<Client>
}

interface Idle<Client> {
  readonly client: Client
  readonly timer: NodeJS.Timeout
}

/** What an engine over a server does with its connections: lends them, cancels on the server, counts, closes. */
export class ClientPool<Client extends PooledClient> implements Closable {
  readonly #options: ClientPoolOptions<Client>
  readonly #life: Lifecycle
  readonly #idle: Idle<Client>[] = []
  readonly #waiting = new Set<() => void>()
  /** All connections: on loan, idle, being made. */
  #size = 0

  constructor(options: ClientPoolOptions<Client>) {
    this.#options = options
    this.#life = new Lifecycle(options.name, options.prefix, () => this.#closeIdle())
  }

  /** One call on a connection. An abort cancels it on the server and ends the connection; then it rejects with the reason. */
  run<T>(
    options: CallOptions | undefined,
    action: string,
    work: (client: Client, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const { prefix } = this.#options
    return this.#life.run(options?.signal, (joined) =>
      withDeadline({ ...options, signal: joined }, { prefix, action }, async ({ signal }) => {
        const client = await this.#lease(signal)
        const done = this.#watch(client, signal)
        try {
          return await work(client, signal)
        } catch (error) {
          signal.throwIfAborted()
          throw error
        } finally {
          await done()
        }
      }),
    )
  }

  /** Rows from a connection, which they keep until they end or are left. */
  async *stream<Row>(
    given: AbortSignal | undefined,
    rows: (client: Client, signal: AbortSignal) => AsyncGenerator<Row, void, undefined>,
  ): AsyncGenerator<Row, void, undefined> {
    const leave = this.#life.hold()
    try {
      const signal = AbortSignal.any([this.#life.signal, ...(given === undefined ? [] : [given])])
      const client = await this.#lease(signal)
      // Nobody may come back to a stream that was left standing: the abort ends it for the pool.
      const done = this.#watch(client, signal, leave)
      try {
        for await (const row of rows(client, signal)) {
          yield row
          signal.throwIfAborted()
        }
      } catch (error) {
        signal.throwIfAborted()
        throw error
      } finally {
        await done()
      }
    } finally {
      leave()
    }
  }

  close(options?: CloseOptions): Promise<void> {
    return this.#life.close(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #lease(signal: AbortSignal): Promise<Client> {
    for (;;) {
      signal.throwIfAborted()
      const idle = this.#idle.pop()
      if (idle !== undefined) {
        clearTimeout(idle.timer)
        if (idle.client.reusable) return idle.client
        this.#forget(idle.client)
      } else if (this.#size < this.#options.max) {
        this.#size += 1
        try {
          return await this.#connect(signal)
        } catch (error) {
          this.#leave()
          throw error
        }
      } else await this.#turn(signal)
    }
  }

  async #connect(signal: AbortSignal): Promise<Client> {
    const { connect, connectMs, prefix, target } = this.#options
    const limit = AbortSignal.timeout(connectMs)
    try {
      return await connect(AbortSignal.any([signal, limit]))
    } catch (error) {
      signal.throwIfAborted()
      throw limit.aborted && !HandlerError.is(error) ? connectTimeout(prefix, target, connectMs) : error
    }
  }

  #watch(client: Client, signal: AbortSignal, left: () => void = () => undefined): () => Promise<void> {
    let cancelling: Promise<void> | undefined
    const cancel = async (): Promise<void> => {
      await client.cancelAndClose().catch(() => undefined)
      this.#leave()
      left()
    }
    const forget = onAbort(signal, () => {
      cancelling = cancel()
    })
    return async () => {
      await client.idle()
      forget()
      await cancelling
      if (cancelling === undefined) this.#release(client)
    }
  }

  #release(client: Client): void {
    if (!client.reusable) return this.#forget(client)
    const expire = (): void => {
      const index = this.#idle.findIndex((one) => one.client === client)
      this.#idle.splice(index, 1)
      this.#forget(client)
    }
    const timer = setTimeout(expire, this.#options.idleMs)
    timer.unref()
    this.#idle.push({ client, timer })
    this.#wake()
  }

  #forget(client: Client): void {
    client.close().catch(() => undefined)
    this.#leave()
  }

  #leave(): void {
    this.#size -= 1
    this.#wake()
  }

  #wake(): void {
    const [first] = this.#waiting
    first?.()
  }

  /** Waits until a connection has become free, or there is room for another. */
  #turn(signal: AbortSignal): Promise<void> {
    const { max, connectMs, prefix, target } = this.#options
    return new Promise((resolve, reject) => {
      const settle = (finish: () => void) => (): void => {
        clearTimeout(timer)
        forget()
        this.#waiting.delete(woken)
        finish()
      }
      const woken = settle(resolve)
      const forget = onAbort(
        signal,
        settle(() => reject(signal.reason as Error)),
      )
      const timer = setTimeout(
        settle(() => reject(poolExhausted(prefix, target, max, connectMs))),
        connectMs,
      )
      this.#waiting.add(woken)
    })
  }

  async #closeIdle(): Promise<void> {
    const idle = this.#idle.splice(0)
    for (const { timer } of idle) clearTimeout(timer)
    await Promise.all(idle.map(({ client }) => client.close()))
  }
}
