import { DataError } from '@common-handlers/core'
import type { Connection } from './connection.ts'
import type { BoundStatement } from './batch.ts'
import type { Wire, WireField } from './driver.ts'
import { Exchange, together } from './exchange.ts'
import { type RowFormat, type RowReader, rowReader } from './rows.ts'

/** Rows that are fetched at a time at most, unless told otherwise. */
export const DEFAULT_BATCH_ROWS: number = 1_000

/** The first fetch, which finds out how long the rows are; the next ones grow by as much at most. */
const FIRST_ROWS = 16

/** Fetches are made smaller where the rows are long, so that one has about so many bytes. */
const FETCH_BYTES = 1024 * 1024

/** Memory of a block, at first and at most from one fetch to the next. */
const LEAST_BYTES = 64 * 1024
const MAX_KEPT_BYTES = 4 * FETCH_BYTES

/** A query that has been bound and waits to be fetched from (PostgreSQL, "Extended Query", portals). */
interface Portal {
  readonly name: string
  readonly statement: BoundStatement
  readonly format: RowFormat
  read: RowReader | undefined
}

interface Fetched {
  readonly block: RowBlock
  /** The portal has not said that it is at its end. */
  readonly more: boolean
}

/**
 * Rows as they came from the server, in memory that is filled again. A row is made when it is asked for, so that the
 * collector finds few that are still wanted: what it has to keep is what it takes time and memory for.
 */
class RowBlock {
  #bytes: Buffer = Buffer.alloc(0)
  #fill = 0
  readonly #ends: number[] = []

  get rows(): number {
    return this.#ends.length
  }

  get bytes(): number {
    return this.#fill
  }

  clear(): void {
    this.#fill = 0
    this.#ends.length = 0
    // What a row that was out of the common needed is not kept.
    if (this.#bytes.length > MAX_KEPT_BYTES) this.#bytes = Buffer.alloc(0)
  }

  add(bytes: Buffer, at: number, end: number): void {
    const fill = this.#fill + end - at
    if (fill > this.#bytes.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(fill, 2 * this.#bytes.length, LEAST_BYTES))
      this.#bytes.copy(larger, 0, 0, this.#fill)
      this.#bytes = larger
    }
    bytes.copy(this.#bytes, this.#fill, at, end)
    this.#fill = fill
    this.#ends.push(fill)
  }

  /** The rows, each made when it is asked for, until the block is cleared. */
  read(read: RowReader | undefined): Iterator<unknown, undefined> {
    let [index, at] = [0, 0]
    return {
      next: () => {
        const end = this.#ends[index]
        if (end === undefined || read === undefined) return { value: undefined, done: true }
        const value = read(this.#bytes, at, end)
        index++
        at = end
        return { value, done: false }
      },
    }
  }
}

/**
 * Fetches some rows. It ends with Sync, so that between two fetches the connection is free for other statements; that
 * the portal outlives it needs a transaction.
 */
class FetchRows extends Exchange<Fetched> {
  readonly statement: string
  readonly #portal: Portal
  readonly #count: number
  readonly #block: RowBlock
  #more = false
  #unreadable: unknown

  constructor(portal: Portal, count: number, block: RowBlock) {
    super()
    block.clear()
    this.#block = block
    this.statement = portal.statement.text
    this.#portal = portal
    this.#count = count
  }

  submit(wire: Wire): null {
    const { name, statement, read } = this.#portal
    return together(wire, () => {
      if (read === undefined) {
        wire.parse({ name: '', text: statement.text, types: [] })
        wire.bind({ portal: name, statement: '', values: statement.values })
        wire.describe({ type: 'P', name })
      }
      wire.execute({ portal: name, rows: this.#count })
      wire.sync()
    })
  }

  override handleRowDescription({ fields }: { readonly fields: readonly WireField[] }): void {
    // What is thrown here must not pass through pg's parser.
    try {
      this.#portal.read = rowReader(fields, this.#portal.format)
    } catch (error) {
      this.#unreadable = error
    }
  }

  override takeRow(bytes: Buffer, at: number, end: number): void {
    this.#block.add(bytes, at, end)
  }

  override handlePortalSuspended(): void {
    this.#more = true
  }

  handleReadyForQuery(): void {
    if (this.#unreadable === undefined) this.succeed({ block: this.#block, more: this.#more })
    else this.fail(this.#unreadable)
  }
}

/** Lets go of a portal before the transaction ends. */
class ClosePortal extends Exchange<void> {
  readonly statement: string
  readonly #name: string

  constructor(portal: Portal) {
    super()
    this.statement = portal.statement.text
    this.#name = portal.name
  }

  submit(wire: Wire): null {
    return together(wire, () => {
      wire.close({ type: 'P', name: this.#name })
      wire.sync()
    })
  }

  handleReadyForQuery(): void {
    this.succeed()
  }
}

/**
 * The rows of a query, some at a time: to be looked at before the next ones are asked for. In a transaction the connection
 * is free between two fetches. Outside, the query gets a transaction of its own, which is committed at the end of the rows
 * and rolled back where the loop is left, and the next fetch is under way while the last is looked at.
 * @throws DataError `POSTGRES_VALUE_INVALID` for a number of rows that is none
 */
export async function* fetchRows(
  connection: Connection,
  statement: BoundStatement,
  format: RowFormat,
  signal: AbortSignal,
  batchRows: number = DEFAULT_BATCH_ROWS,
): AsyncGenerator<Iterator<unknown, undefined>, void, undefined> {
  if (!(Number.isInteger(batchRows) && batchRows >= 1))
    throw new DataError(`batchRows is a number of rows, 1 or more, not ${batchRows}`, { code: 'POSTGRES_VALUE_INVALID' })
  const own = !connection.inTransaction
  const left = new AbortController()
  const either = AbortSignal.any([signal, left.signal])
  const portal: Portal = { name: `rows_${connection.nextNumber()}`, statement, format, read: undefined }
  // One is looked at while the other is filled.
  const blocks = [new RowBlock(), new RowBlock()] as const
  let fetches = 0
  const fetch = (count: number): Promise<Fetched> => {
    const block = blocks[fetches++ % 2 === 0 ? 0 : 1]
    const fetched = connection.exchange(new FetchRows(portal, count, block), either)
    fetched.catch(() => undefined)
    return fetched
  }
  // Where it fails the transaction has failed before, and its next statement says so.
  const close = (): Promise<void> => connection.conclude(new ClosePortal(portal)).catch(() => undefined)
  let ahead: Promise<Fetched> | undefined
  let open = true
  if (own) await connection.begin('BEGIN', signal)
  try {
    ahead = fetch(Math.min(batchRows, FIRST_ROWS))
    while (open) {
      const { block, more } = await ahead
      const fitting = Math.round((FETCH_BYTES * block.rows) / Math.max(1, block.bytes))
      const count = Math.max(1, Math.min(batchRows, block.rows * FIRST_ROWS, fitting))
      if (more && own) ahead = fetch(count)
      if (block.rows > 0) yield block.read(portal.read)
      if (more && !own) ahead = fetch(count)
      open = more
    }
    await (own ? connection.commit(signal) : close())
  } catch (error) {
    open = false
    // The portal is still there where it was not the server that failed.
    await (own ? connection.rollback() : close())
    throw error
  } finally {
    if (open) {
      left.abort(new Error('the loop over the rows was left'))
      await ahead?.catch(() => undefined)
      await (own ? connection.rollback() : close())
    }
  }
}
