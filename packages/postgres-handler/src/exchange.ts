import { DataError } from '@common-handlers/core'
import type { Submittable, Wire, WireField } from './driver.ts'

/**
 * Some messages to the server and what it answers, up to its ReadyForQuery: a query, a batch, the rows of a cursor, a
 * COPY. Whoever makes one overrides what it expects; anything else is ignored.
 */
export abstract class Exchange<T> implements Submittable {
  /** What the exchange came to. It may settle before the server is ready for the next one. */
  readonly done: Promise<T>
  protected readonly succeed: (result: T) => void
  protected readonly fail: (reason: unknown) => void

  constructor() {
    const { promise, resolve, reject } = Promise.withResolvers<T>()
    // An exchange that pg refuses is rejected before anyone waits for it.
    promise.catch(() => undefined)
    this.done = promise
    this.succeed = resolve
    this.fail = reject
  }

  /** The statement that is under way, for errors. */
  abstract readonly statement: string
  /** Which one it is, where there are several: `statement 2 of 3`. */
  get place(): string | undefined {
    return undefined
  }
  /** The file that rows are read from. */
  get file(): string | undefined {
    return undefined
  }

  /** What it asks of the caller while it runs, such as the rows of a COPY; other statements are refused meanwhile. */
  get holds(): string | undefined {
    return undefined
  }

  /** A statement was a COMMIT. */
  get committed(): boolean {
    return false
  }

  abstract submit(wire: Wire): null
  abstract handleReadyForQuery(wire: Wire): void

  /** The call was aborted; the server is asked to cancel besides. */
  interrupt(_reason: unknown): void {}

  /** The server is done with it after an abort; what has not come to its end by then is not waited for. */
  giveUp(reason: unknown): void {
    this.fail(reason)
  }

  handleError(error: Error): void {
    this.fail(error)
  }

  handleRowDescription(_message: { readonly fields: readonly WireField[] }): void {}
  handleCommandComplete(_message: { readonly text: string }): void {}
  handleEmptyQuery(_wire: Wire): void {}
  handlePortalSuspended(_wire: Wire): void {}
  /** The Sync that was sent is passed over while the server waits for rows, so that it needs another (PostgreSQL, "COPY Operations"). */
  handleCopyInResponse(wire: Wire): void {
    this.fail(unexpectedCopy(this.place))
    wire.sendCopyFail('the rows of a COPY FROM STDIN were not expected here')
    wire.sync()
  }
  takeRow(_bytes: Buffer, _at: number, _end: number): void {}
  /** The rows of COPY TO STDOUT. They are let pass, so that the connection stays in step. */
  beginCopyRow(_length: number): void {
    this.fail(unexpectedCopy(this.place))
  }
  takeCopyRow(_bytes: Buffer, _at: number, _end: number): void {}
}

export const unexpectedCopy = (place?: string): DataError =>
  new DataError(
    `${place === undefined ? '' : `${place}: `}this is a COPY from or to the client: use copyFrom, or copyOut and copyTo`,
    { code: 'POSTGRES_COPY_UNEXPECTED' },
  )

/** Sends several messages as one write. */
export function together(wire: Wire, send: () => void): null {
  wire.stream.cork()
  try {
    send()
  } finally {
    wire.stream.uncork()
  }
  return null
}

/** `INSERT 0 5`, `SELECT 3`, `CREATE TABLE` (PostgreSQL, CommandComplete) as what was done and to how many rows. */
export function readCommandTag(tag: string): { readonly command: string; readonly rowCount: number } {
  const [, command = '', rows] = /^([A-Za-z]+)(?:.*?(\d+))?$/.exec(tag) ?? []
  return { command, rowCount: Number(rows ?? 0) }
}
