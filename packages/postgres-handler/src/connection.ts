import { ConflictError, DataError } from '@common-handlers/core'
import { type CopyBlock, CopyReader, type CopyReaderOptions } from './copy-reader.ts'
import { DescribeStatement } from './describe-statement.ts'
import { type CancelTarget, type PooledClient, requestCancel, type WireField } from './driver.ts'
import { type Circumstances, toHandlerError } from './errors.ts'
import type { RawResult, ResultField } from './rows.ts'
import { bindValue } from './values.ts'

/** How long the server gets to end a cancelled statement before its connection is cut. */
const CANCEL_LIMIT_MS = 5_000
/** A cancel request that reaches the server before the statement does is lost, so it is sent again. */
const CANCEL_AGAIN_MS = 100

export interface ConnectionPlace extends CancelTarget {
  /** `user@host:port/database` */
  readonly target: string
  readonly user: string
}

/**
 * One connection on loan from the pool. Statements run one after the other; an abort cancels on the server and waits
 * until it is idle, so that a connection that is given back runs nothing.
 */
export class Connection {
  readonly #client: PooledClient
  readonly #place: ConnectionPlace
  #last: Promise<void> = Promise.resolve()
  #copying = false
  #inTransaction = false
  #released = false

  constructor(client: PooledClient, place: ConnectionPlace) {
    this.#client = client
    this.#place = place
  }

  /** `15.13 (Debian 15.13-0+deb12u1)` */
  get serverVersion(): string {
    return this.#client.serverVersion
  }

  get user(): string {
    return this.#place.user
  }

  /** One statement with bound values. */
  async query(text: string, values: readonly unknown[], signal: AbortSignal | undefined, phase?: 'commit'): Promise<RawResult> {
    const bound = values.map(bindValue)
    const result = await this.#attend(text, signal, () => this.#client.run(text, bound), phase)
    return {
      fields: result.fields.map(toField),
      rows: result.rows,
      rowCount: result.rowCount ?? 0,
      command: result.command ?? '',
    }
  }

  /** Any number of statements, one after the other, in one implicit transaction unless they say otherwise. */
  async script(text: string, signal: AbortSignal | undefined): Promise<void> {
    await this.#attend(text, signal, () => this.#client.runScript(text))
  }

  /** The columns a statement would return, without running it; none for one that returns nothing. */
  async describe(text: string, signal: AbortSignal | undefined): Promise<readonly ResultField[]> {
    const fields = await this.#attend(text, signal, () => {
      const describe = new DescribeStatement(text)
      this.#client.submit(describe)
      return describe.fields
    })
    return (fields ?? []).map(toField)
  }

  /** COPY … TO STDOUT in blocks of whole rows. Leaving the loop, or an abort, cancels it on the server. */
  async *copyOut(
    text: string,
    signal: AbortSignal | undefined,
    options: CopyReaderOptions | undefined,
  ): AsyncGenerator<CopyBlock, void, undefined> {
    signal?.throwIfAborted()
    const done = await this.#turn()
    this.#copying = true
    const reader = new CopyReader(text, options)
    let cancelled: Promise<void> | undefined
    const stop = (reason: unknown): Promise<void> => {
      reader.discard(reason)
      return (cancelled ??= this.#cancel(() => !reader.finished))
    }
    const abort = (): void => void stop(signal?.reason)
    try {
      signal?.throwIfAborted()
      signal?.addEventListener('abort', abort, { once: true })
      this.#client.submit(reader)
      for (let block = await reader.next(); block !== undefined; block = await reader.next()) yield block
    } catch (error) {
      signal?.throwIfAborted()
      throw toHandlerError(error, this.#circumstances(text))
    } finally {
      signal?.removeEventListener('abort', abort)
      if (!reader.finished) await stop(new DataError('the COPY was left before its end', { code: 'POSTGRES_COPY_LEFT' }))
      await cancelled
      await this.#client.idle()
      this.#copying = false
      done()
    }
  }

  /** Runs work between BEGIN and COMMIT; an error, or an abort, rolls back. */
  async transaction<T>(begin: string, signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    await this.query(begin, [], signal)
    this.#inTransaction = true
    let result: T
    try {
      result = await work()
      signal?.throwIfAborted()
    } catch (error) {
      // A rollback that fails leaves a connection that is not reusable, and the loss of it rolls back too.
      await this.query('ROLLBACK', [], undefined).catch(() => undefined)
      throw error
    } finally {
      this.#inTransaction = false
    }
    const ended = await this.query('COMMIT', [], signal, 'commit')
    if (ended.command === 'COMMIT') return result
    throw new ConflictError(
      'a statement of the transaction had failed, so that the server rolled it back instead of committing',
      {
        code: 'POSTGRES_TRANSACTION_FAILED',
      },
    )
  }

  /** Resolves when the server waits for the next statement, or the connection has ended. */
  idle(): Promise<void> {
    return this.#client.idle()
  }

  /** Back to the pool; or closed, where the next user would not find it as it was made. */
  release(): void {
    if (this.#released) return
    this.#released = true
    this.#client.release(!this.#client.reusable)
  }

  #circumstances(statement: string, phase?: 'commit'): Circumstances {
    const { target, user } = this.#place
    return { phase: phase ?? (this.#inTransaction ? 'transaction' : 'statement'), target, user, statement }
  }

  /** Waits until the connection is free; call what it returns when it is again. */
  async #turn(): Promise<() => void> {
    if (this.#copying) {
      throw new ConflictError(
        'a COPY is being read on this connection: read it to its end, or leave it, before the next statement',
        {
          code: 'POSTGRES_CONNECTION_BUSY',
        },
      )
    }
    const before = this.#last
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#last = promise
    await before
    return resolve
  }

  async #attend<T>(text: string, signal: AbortSignal | undefined, start: () => Promise<T>, phase?: 'commit'): Promise<T> {
    signal?.throwIfAborted()
    const done = await this.#turn()
    let running = true
    let cancelled: Promise<void> | undefined
    const abort = (): void => {
      cancelled = this.#cancel(() => running)
    }
    try {
      signal?.throwIfAborted()
      signal?.addEventListener('abort', abort, { once: true })
      return await start()
    } catch (error) {
      signal?.throwIfAborted()
      throw toHandlerError(error, this.#circumstances(text, phase))
    } finally {
      signal?.removeEventListener('abort', abort)
      // The error comes before ReadyForQuery; only then is the server idle.
      if (cancelled === undefined) await this.#client.idle()
      running = false
      await cancelled
      done()
    }
  }

  /** Cancels on the server until it is idle; past the limit the connection is cut. */
  async #cancel(running: () => boolean): Promise<void> {
    const client = this.#client
    const end = performance.now() + CANCEL_LIMIT_MS
    const idle = client.idle()
    while (running() && !client.gone && !client.ready) {
      const left = end - performance.now()
      if (left <= 0) {
        client.destroy()
        break
      }
      await requestCancel(client, this.#place, left)
      await waitAtMost(idle, Math.min(CANCEL_AGAIN_MS, left))
    }
    await idle
    // The signal of the last request may still be under way to the server; this statement takes it, not the next user's.
    if (!client.gone) await client.runScript('').catch(() => undefined)
    await client.idle()
  }
}

async function waitAtMost(promise: Promise<void>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  await Promise.race([
    promise,
    new Promise<void>((resolve) => {
      timer = setTimeout(resolve, ms)
    }),
  ])
  clearTimeout(timer)
}

function toField(field: WireField): ResultField {
  return {
    name: field.name,
    typeOid: field.dataTypeID,
    typeModifier: field.dataTypeModifier,
    tableOid: field.tableID,
    attributeNumber: field.columnID,
  }
}
