import { CapacityError, ConfigError } from '@common-handlers/core'
import type { BoundHandler } from './handler.ts'
import { borrow, type ConnectionPool, type PoolClient } from './pool.ts'
import { onLoan, OutboxRepository } from './repository.ts'
import type { Repositories, RunContext } from './run.ts'

export interface HandlerDatabaseOptions {
  readonly pool: ConnectionPool
  readonly openConnection: (() => Promise<PoolClient>) | undefined
  readonly schema: string
  /** Connections of the pool that handlers hold at a time at most. */
  readonly max: number
  readonly holdWarningMs: number
  readonly onWait: (type: string, ms: number) => void
  readonly onHold: (type: string, ms: number) => void
  readonly onExhausted: (type: string, waiting: number) => void
}

/** Repositories of handlers that call to the outside: on the worker's pool, or on connections of their own. */
export class HandlerDatabase implements Repositories {
  readonly #options: HandlerDatabaseOptions
  #inUse = 0
  readonly #waiting: (() => void)[] = []

  constructor(options: HandlerDatabaseOptions) {
    this.#options = options
  }

  /** Connections of the pool that handlers hold now, and handlers that wait for one. */
  get status(): { readonly inUse: number; readonly waiting: number } {
    return { inUse: this.#inUse, waiting: this.#waiting.length }
  }

  async open(handler: BoundHandler, context: RunContext): Promise<OutboxRepository> {
    const began = performance.now()
    const release = handler.usePool ? await this.#slot(handler) : () => undefined
    let client: PoolClient
    try {
      const left = Math.max(1, handler.connectTimeoutMs - (performance.now() - began))
      client = await borrow(handler.usePool ? this.#options.pool : this.#own(), left, `the handler of ${handler.type}`)
    } catch (error) {
      release()
      throw error
    }
    const { schema, onWait, onHold, holdWarningMs } = this.#options
    const since = performance.now()
    onWait(handler.type, since - began)
    const loan = await onLoan(client, handler.queryTimeoutMs, (failure) => {
      release()
      client.release(handler.usePool ? failure : true)
      const held = performance.now() - since
      if (held > holdWarningMs && handler.usePool) onHold(handler.type, held)
    }).catch((error: unknown) => {
      throw error
    })
    const repository: OutboxRepository = new OutboxRepository(
      {
        ...loan,
        before: () => context.assertRunning(),
        end: async (failure) => {
          context.open.delete(repository)
          await loan.end(failure)
        },
      },
      schema,
    )
    context.open.add(repository)
    return repository
  }

  async #slot(handler: BoundHandler): Promise<() => void> {
    if (this.#inUse >= this.#options.max) {
      this.#options.onExhausted(handler.type, this.#waiting.length + 1)
      await this.#wait(handler)
    } else this.#inUse += 1
    let held = true
    return () => {
      if (!held) return
      held = false
      const next = this.#waiting.shift()
      if (next === undefined) this.#inUse -= 1
      else next()
    }
  }

  async #wait(handler: BoundHandler): Promise<void> {
    const { connectTimeoutMs, type } = handler
    const { max } = this.#options
    await new Promise<void>((resolve, reject) => {
      const turn = (): void => {
        clearTimeout(timer)
        resolve()
      }
      const timer = setTimeout(() => {
        this.#waiting.splice(this.#waiting.indexOf(turn), 1)
        reject(
          new CapacityError(
            `the handler of ${type} got none of the ${max} connections of the pool within ${connectTimeoutMs} ms: handlers hold them too long, or poolMaxConnections is too small`,
            { code: 'OUTBOX_POOL_EXHAUSTED', retry: 'safe', context: { type, max } },
          ),
        )
      }, connectTimeoutMs)
      this.#waiting.push(turn)
    })
  }

  #own(): ConnectionPool {
    const { openConnection } = this.#options
    if (openConnection !== undefined) return { connect: openConnection }
    throw new ConfigError('no way to open a connection', { code: 'OUTBOX_CONFIG_INVALID' })
  }
}

interface DriverPool extends ConnectionPool {
  readonly options: object
  readonly Client: new (options: object) => PoolClient & { connect(): Promise<unknown>; end(): Promise<void> }
}

/** How `pg.Pool` makes its connections: the same, and not of the pool. */
export function connectionsLikeThoseOf(pool: ConnectionPool): (() => Promise<PoolClient>) | undefined {
  const { options, Client } = pool as Partial<DriverPool>
  if (options === undefined || Client === undefined) return undefined
  return async () => {
    const client = new Client(options)
    client.on('error', () => undefined)
    await client.connect()
    client.release = () => void client.end().catch(() => undefined)
    return client
  }
}
