import { onAbort } from '@common-handlers/core'
import type { PostgresClient } from './driver.ts'
import { poolExhausted } from './errors.ts'

// pg's own pool cannot be told that a caller has given up: neither while it waits nor while a connection is made.

export interface PoolOptions {
  readonly max: number
  readonly idleMs: number
  /** How long a call waits for a connection that others have. */
  readonly waitMs: number
  /** For errors. */
  readonly target: string
  readonly connect: (signal: AbortSignal) => Promise<PostgresClient>
}

interface Idle {
  readonly client: PostgresClient
  readonly timer: NodeJS.Timeout
}

/** Connections on loan, one caller each; idle ones are kept for a while. */
export class Pool {
  readonly #options: PoolOptions
  readonly #idle: Idle[] = []
  readonly #waiting = new Set<() => void>()
  /** All connections: on loan, idle, being made. */
  #size = 0

  constructor(options: PoolOptions) {
    this.#options = options
  }

  /** Waits for a connection that others have, if need be. @throws CapacityError `POSTGRES_POOL_EXHAUSTED`, the signal's reason */
  async lease(signal: AbortSignal): Promise<PostgresClient> {
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
          return await this.#options.connect(signal)
        } catch (error) {
          this.#leave()
          throw error
        }
      } else await this.#turn(signal)
    }
  }

  /** Takes a connection back. One that is not as it was is not kept. */
  release(client: PostgresClient): void {
    if (!client.reusable) return this.#forget(client)
    const timer = setTimeout(() => {
      this.#idle.splice(
        this.#idle.findIndex((one) => one.client === client),
        1,
      )
      this.#forget(client)
    }, this.#options.idleMs)
    timer.unref()
    this.#idle.push({ client, timer })
    this.#wake()
  }

  /** For a connection that ends otherwise. */
  drop(): void {
    this.#leave()
  }

  /** Closes those that are idle, and waits for that. */
  async close(): Promise<void> {
    const idle = this.#idle.splice(0)
    for (const { timer } of idle) clearTimeout(timer)
    await Promise.all(idle.map(({ client }) => client.close()))
  }

  #forget(client: PostgresClient): void {
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

  #turn(signal: AbortSignal): Promise<void> {
    const { max, waitMs, target } = this.#options
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
        settle(() => reject(poolExhausted(target, max, waitMs))),
        waitMs,
      )
      this.#waiting.add(woken)
    })
  }
}
