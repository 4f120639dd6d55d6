import { ConfigError, DataError, HandlerError, type Logger, retry, type RetryPolicy } from '@common-handlers/core'
import { Blocks, free } from './body-bytes.ts'
import type { Conversions } from './convert.ts'
import { fromPreparedHeader, fromServer, notTheProtocol, queryLost, withVerdict } from './errors.ts'
import { cancelledAtExit } from './exit-guard.ts'
import { inOrder } from './in-order.ts'
import { type Answer, type DirectRows, parseAnswer, statsOf, type TrinoStats, type WireReply } from './protocol.ts'
import { endOfLost } from './query-info.ts'
import { RowParser } from './row-text.ts'
import { type FetchedSegment, fetchSegment, segmentHeaders, segmentRows } from './spooled.ts'
import type { RenderedStatement } from './sql.ts'
import { textOf, type TransportReply, type TransportRequest, type TrinoTransport } from './transport.ts'
import { rowsDecoder, shapeOf, type TrinoColumn, type TrinoValue, type WireColumn } from './values.ts'

/** Some rows of a result, in order, and where the statement stands. */
export interface Page {
  readonly columns: readonly TrinoColumn[]
  readonly rows: TrinoValue[][]
  readonly stats: TrinoStats
}

/** What a statement did, when it has ended. */
export interface StatementEnd {
  readonly columns: readonly TrinoColumn[]
  readonly updateType: string | undefined
  readonly updateCount: number | undefined
  readonly stats: TrinoStats
}

/** The address of a statement: what a ledger needs to keep to follow it or to cancel it for good, even from another process. */
export interface StatementHandle {
  readonly queryId: string
  /** Where the next answer waits. Whoever knows it can follow or cancel the statement; it names no user or password. */
  readonly nextUri: string
}

export interface StatementContext {
  readonly transport: TrinoTransport
  readonly retry: RetryPolicy
  readonly logger: Logger
  readonly heartbeatMs: number
  /** Segments that are fetched ahead. */
  readonly parallel: number
}

export interface PagesOptions extends Conversions {
  readonly signal: AbortSignal
  readonly onProgress?: ((stats: TrinoStats) => void) | undefined
}

/** Looks at the headers of each answer: a session takes them over, a statement without one refuses what it cannot keep. */
export type HeaderWatch = (headers: TransportReply['headers'], queryId: string) => void

/** A DELETE, a heartbeat or an acknowledgement must not keep anybody waiting. */
const COURTESY_MS = 5_000

/** Nothing to cancel is as good as cancelled. */
export const CANCEL_ANSWERS: readonly number[] = [200, 202, 204, 404, 410]

/**
 * POSTs a statement. The server registers it and gives it an id; nothing runs before the first GET of `nextUri`.
 * The POST is repeated when the connection was never made or a proxy or a starting server answered 429, 502, 503 or 504.
 * A lost connection is not repeated, since a second query might be registered, but its error says `safe`: neither
 * would run.
 */
export async function submit(
  context: StatementContext,
  { text, shift, prepared }: RenderedStatement,
  headers: Readonly<Record<string, string>>,
  watch: HeaderWatch,
  signal: AbortSignal,
): Promise<Statement> {
  const { transport, logger } = context
  let reply: TransportReply
  try {
    reply = await retry(
      () => transport.send({ method: 'POST', uri: '/v1/statement', headers, body: text, signal, expected: [200] }),
      {
        policy: context.retry,
        signal,
        onRetry: (error, next) => logger.warn({ code: error.code, ...next }, 'submitting a statement again'),
      },
    )
  } catch (error) {
    if (!HandlerError.is(error)) throw error
    if (prepared !== undefined && error.code === 'TRINO_HTTP_ERROR') throw fromPreparedHeader(error)
    throw error.retry === 'if-idempotent' ? withVerdict(error, 'safe') : error
  }
  const answer = parseAnswer(reply.body)
  if (answer === undefined) throw notTheProtocol(transport.target, textOf(reply))
  const { error, id } = answer.reply
  if (error !== null && error !== undefined) throw fromServer(error, id, shift)
  watch(reply.headers, id)
  return new Statement(context, answer, shift, watch)
}

/** A statement that was submitted before, perhaps by another process. */
export function attached(context: StatementContext, { queryId, nextUri }: StatementHandle, watch: HeaderWatch): Statement {
  return new Statement(context, { reply: { id: queryId, nextUri }, rows: undefined }, 0, watch)
}

/** Rows that are there and still to be read, with what was known when they came. */
interface Part {
  readonly columns: readonly WireColumn[]
  readonly stats: TrinoStats
  readonly rows: DirectRows | FetchedSegment
}

/** A registered statement: followed once, or cancelled. */
export class Statement {
  readonly queryId: string
  readonly #context: StatementContext
  readonly #first: Answer
  readonly #shift: number
  readonly #watch: HeaderWatch
  readonly #courtesies = new Set<Promise<void>>()
  #nextUri: string | undefined
  #lastUri = ''
  #columns: readonly WireColumn[] = []
  #last: WireReply
  #followed = false
  #ended = false
  #exchangedAt = Date.now()
  #headIsKnown = true
  #cancelled: Promise<void> | undefined

  constructor(context: StatementContext, first: Answer, shift: number, watch: HeaderWatch) {
    this.#context = context
    this.#first = first
    this.#last = first.reply
    this.#shift = shift
    this.#watch = watch
    this.queryId = first.reply.id
    this.#moveTo(first.reply.nextUri)
  }

  #moveTo(uri: string | undefined): void {
    this.#nextUri = uri
    this.#lastUri = uri ?? this.#lastUri
  }

  /** Where it stands now, or stood last. The address of the first answer is good until the second one is asked for. */
  get handle(): StatementHandle {
    return { queryId: this.queryId, nextUri: this.#lastUri }
  }

  /** What it did; after {@link pages} has ended. */
  get end(): StatementEnd {
    const { updateType, updateCount, stats } = this.#last
    return {
      columns: publicColumns(this.#columns),
      updateType: updateType ?? undefined,
      updateCount: updateCount === null || updateCount === undefined ? undefined : Number(updateCount),
      stats: statsOf(stats),
    }
  }

  /**
   * Runs the statement and gives its rows, some at a time; the next answer, or the next segments, are fetched while some
   * are used. Leaving early, by `break`, an error or the signal, cancels the statement on the server before it returns.
   */
  async *pages({ signal, onProgress, ...conversions }: PagesOptions): AsyncGenerator<Page, void, undefined> {
    if (this.#followed) {
      throw new ConfigError('a submitted statement can be followed once', {
        code: 'TRINO_ALREADY_FOLLOWED',
        context: { queryId: this.queryId },
      })
    }
    this.#followed = true
    const left = new AbortController()
    const joined = AbortSignal.any([signal, left.signal])
    const release = cancelledAtExit(this.#context.transport, () => this.#nextUri)
    const heart = setInterval(() => this.#beat(joined), this.#context.heartbeatMs).unref()
    // A consumer that holds a page and never asks again would not notice: the server is told at once.
    const abort = (): void => {
      clearInterval(heart)
      void this.cancel().finally(release)
    }
    signal.addEventListener('abort', abort, { once: true })
    let spooled = false
    const memory = new Blocks()
    const parts = inOrder(
      this.#answers(joined, onProgress),
      async ({ columns, stats, rows }): Promise<Part> => {
        if (rows.kind === 'direct') return { columns, stats, rows }
        spooled = true
        const fetched = fetchSegment(this.#context, rows.wire, rows.encoding, joined, memory)
        return { columns, stats, rows: await fetched.catch((error: unknown) => Promise.reject(this.#begun(error))) }
      },
      () => (spooled ? this.#context.parallel : 1),
    )
    let reader: Reader | undefined
    try {
      for await (const part of parts) {
        reader ??= readerOf(part.columns, conversions)
        const { columns, decode } = reader
        for await (const rows of this.#rowsOf(part.rows, reader, memory)) {
          joined.throwIfAborted()
          yield { columns, rows: decode(rows), stats: part.stats }
        }
      }
    } finally {
      clearInterval(heart)
      signal.removeEventListener('abort', abort)
      if (!this.#ended) await this.cancel()
      // Whatever is fetched ahead is of no use any more.
      left.abort()
      release()
      memory.free()
      await Promise.all(this.#courtesies)
    }
  }

  /** Tells the server to stop; a statement that was never followed is forgotten. Never throws. */
  cancel(): Promise<void> {
    this.#followed = true
    return (this.#cancelled ??= this.#nextUri === undefined ? Promise.resolve() : this.#sendCancel(this.#nextUri))
  }

  /** Answers one after the other, and of each what rows it brings. */
  async *#answers(
    signal: AbortSignal,
    onProgress: ((stats: TrinoStats) => void) | undefined,
  ): AsyncGenerator<{ columns: readonly WireColumn[]; stats: TrinoStats; rows: DirectRows | WirePart }, void, undefined> {
    let { reply, rows }: Answer = this.#first
    for (;;) {
      signal.throwIfAborted()
      const stats = statsOf(reply.stats)
      onProgress?.(stats)
      if (reply.error !== null && reply.error !== undefined) {
        this.#ended = true
        throw fromServer(reply.error, this.queryId, this.#shift)
      }
      this.#last = reply
      this.#moveTo(reply.nextUri)
      this.#ended = reply.nextUri === undefined
      if (reply.columns !== null && reply.columns !== undefined) this.#columns = reply.columns
      if (rows?.kind === 'direct') yield { columns: this.#columns, stats, rows }
      else if (rows !== undefined) {
        for (const wire of rows.segments) {
          yield { columns: this.#columns, stats, rows: { kind: 'spooled', wire, encoding: rows.encoding } }
        }
      }
      if (reply.nextUri === undefined) return
      const answer = await this.#get(reply.nextUri, signal)
      reply = answer.reply
      rows = answer.rows
    }
  }

  async *#rowsOf(
    rows: DirectRows | FetchedSegment,
    reader: Reader,
    memory: Blocks,
  ): AsyncGenerator<unknown[][], void, undefined> {
    const { parser } = reader
    if ('kind' in rows) {
      if (rows.parsed.length > 0) yield rows.parsed
      if (rows.bytes === undefined) return
      try {
        yield* parser.all(rows.bytes)
        free(rows.bytes)
      } catch (cause) {
        if (!(cause instanceof SyntaxError)) throw cause
        throw notTheProtocol(this.#context.transport.target, 'rows that are no JSON')
      }
      return
    }
    for await (const some of segmentRows(rows, reader.rows, parser, memory)) {
      reader.rows += some.length
      yield some
    }
    const { ackUri } = rows.wire
    // The server may delete it now instead of some hours later.
    if (ackUri !== undefined) {
      this.#courtesy({ method: 'GET', uri: ackUri, headers: segmentHeaders(rows.wire) }, 'a segment could not be acknowledged')
    }
  }

  /** Asks for the next answer. Asking again is harmless: the server keeps the answer until the one after it is asked for. */
  async #get(uri: string, signal: AbortSignal): Promise<Answer> {
    const { transport, logger } = this.#context
    let found: TransportReply | Answer
    try {
      found = await retry(
        async () => {
          const reply = await transport.send({ method: 'GET', uri, signal, expected: [200, 404, 410] })
          this.#exchangedAt = Date.now()
          if (reply.status !== 200) return reply
          this.#watch(reply.headers, this.queryId)
          const answer = parseAnswer(reply.body)
          if (answer === undefined) throw notTheProtocol(transport.target, textOf(reply))
          return answer
        },
        {
          policy: this.#context.retry,
          signal,
          idempotent: true,
          onRetry: (error, next) =>
            logger.warn({ queryId: this.queryId, code: error.code, ...next }, 'asking for the next page again'),
        },
      )
    } catch (error) {
      throw this.#begun(error)
    }
    if ('reply' in found) return found
    this.#ended = true
    const end = await endOfLost(transport, this.queryId, AbortSignal.any([signal, AbortSignal.timeout(COURTESY_MS)]))
    signal.throwIfAborted()
    throw typeof end === 'object' ? fromServer(end, this.queryId, this.#shift) : queryLost(this.queryId, found.status, end)
  }

  /** What was safe to repeat is not so any more: the statement may be running all the same, and nobody may take it for untouched. */
  #begun(error: unknown): unknown {
    return HandlerError.is(error) && error.retry === 'safe' ? withVerdict(error, 'if-idempotent', this.queryId) : error
  }

  /** Tells the server that the reader is still there, when nothing else has for a while. */
  #beat(signal: AbortSignal): void {
    const uri = this.#nextUri
    if (uri === undefined || Date.now() - this.#exchangedAt < this.#context.heartbeatMs - 5) return
    this.#exchangedAt = Date.now()
    // Servers before HEAD was understood are asked for the next answer, which they keep until the one after it is asked for.
    this.#courtesy({ method: this.#headIsKnown ? 'HEAD' : 'GET', uri }, 'a heartbeat was lost', signal)
  }

  #courtesy(request: Pick<TransportRequest, 'method' | 'uri' | 'headers'>, failed: string, signal?: AbortSignal): void {
    const { transport, logger } = this.#context
    const limit = AbortSignal.timeout(COURTESY_MS)
    const both = signal === undefined ? limit : AbortSignal.any([limit, signal])
    const sent = transport.send({ ...request, signal: both, expected: [200, 202, 204, 404, 405, 410, 501] }).then(
      ({ status }) => {
        if (request.method === 'HEAD' && (status === 405 || status === 501)) this.#headIsKnown = false
      },
      (error: unknown) => {
        if (signal?.aborted !== true) logger.warn({ queryId: this.queryId, error: codeOf(error) }, failed)
      },
    )
    this.#courtesies.add(sent)
    void sent.finally(() => this.#courtesies.delete(sent))
  }

  async #sendCancel(uri: string): Promise<void> {
    const { transport, logger } = this.#context
    try {
      const signal = AbortSignal.timeout(COURTESY_MS)
      await retry(() => transport.send({ method: 'DELETE', uri, signal, expected: CANCEL_ANSWERS }), {
        policy: { ...this.#context.retry, budgetMs: COURTESY_MS },
        signal,
        idempotent: true,
      })
    } catch (error) {
      logger.warn({ queryId: this.queryId, error: codeOf(error) }, 'a statement could not be cancelled')
    }
  }
}

interface WirePart {
  readonly kind: 'spooled'
  readonly wire: FetchedSegment['wire']
  readonly encoding: string
}

/** How the rows of this result are read. */
interface Reader {
  readonly columns: readonly TrinoColumn[]
  readonly parser: RowParser
  readonly decode: ReturnType<typeof rowsDecoder>
  /** Read until now. */
  rows: number
}

function readerOf(columns: readonly WireColumn[], conversions: Conversions): Reader {
  const unknown = Object.keys(conversions.columns ?? {}).find((name) => !columns.some((column) => column.name === name))
  if (unknown !== undefined) {
    throw new DataError(`a conversion is for column ${JSON.stringify(unknown)}, which the result does not have`, {
      code: 'TRINO_COLUMN_UNKNOWN',
      where: { column: unknown },
    })
  }
  return {
    columns: publicColumns(columns),
    parser: new RowParser(shapeOf(columns)),
    decode: rowsDecoder(columns, conversions),
    rows: 0,
  }
}

const publicColumns = (columns: readonly WireColumn[]): TrinoColumn[] => columns.map(({ name, type }) => ({ name, type }))

const codeOf = (error: unknown): string => (HandlerError.is(error) ? error.code : String(error))
