import { ConfigError, HandlerError, type Logger, retry, type RetryPolicy } from '@common-handlers/core'
import { fromServer, notTheProtocol, queryLost, withVerdict } from './errors.ts'
import type { HttpReply, TrinoHttp } from './http.ts'
import { parseReply, statsOf, type TrinoStats, type WireReply } from './protocol.ts'
import type { RenderedStatement } from './sql.ts'
import { rowsDecoder, type TrinoColumn, type TrinoValue, type WireColumn } from './values.ts'

/** Some rows of a result, in order, and where the statement stands. Only the last page of a write says what it did. */
export interface Page {
  readonly columns: readonly TrinoColumn[]
  readonly rows: TrinoValue[][]
  readonly stats: TrinoStats
  readonly updateType: string | undefined
  readonly updateCount: number | undefined
}

/** The address of a statement: what a ledger needs to keep to cancel it for good, even from another process. */
export interface StatementHandle {
  readonly queryId: string
  /** Where the next answer waits. Whoever knows it can follow or cancel the statement; it names no user or password. */
  readonly nextUri: string
}

export interface StatementContext {
  readonly http: TrinoHttp
  readonly retry: RetryPolicy
  readonly logger: Logger
}

/** A DELETE must not keep an aborted caller waiting. */
const CANCEL_LIMIT_MS = 5_000

/**
 * POSTs a statement. The server registers it and gives it an id; nothing runs before the first GET of `nextUri`.
 * The POST is repeated when the connection was never made or a proxy or a starting server answered 429, 502, 503 or 504.
 * A lost connection is not repeated, since a second query might be registered, but its error says `safe`: neither
 * would run.
 */
export async function submit(
  context: StatementContext,
  { text, shift }: RenderedStatement,
  headers: Readonly<Record<string, string>>,
  signal: AbortSignal,
): Promise<Statement> {
  const { http, logger } = context
  let answer: HttpReply
  try {
    answer = await retry(
      () => http.send({ method: 'POST', uri: '/v1/statement', headers, body: text, signal, expected: [200] }),
      {
        policy: context.retry,
        signal,
        onRetry: (error, next) => logger.warn({ code: error.code, ...next }, 'submitting a statement again'),
      },
    )
  } catch (error) {
    throw HandlerError.is(error) && error.retry === 'if-idempotent' ? withVerdict(error, 'safe') : error
  }
  const reply = parseReply(answer.text)
  if (reply === undefined) throw notTheProtocol(http.target, answer.text)
  if (reply.error !== null && reply.error !== undefined) throw fromServer(reply.error, reply.id, shift)
  return new Statement(context, reply, shift)
}

/** A registered statement: followed once, or cancelled. */
export class Statement {
  readonly queryId: string
  readonly #context: StatementContext
  readonly #first: WireReply
  readonly #shift: number
  #nextUri: string | undefined
  #followed = false
  #cancelled: Promise<void> | undefined

  constructor(context: StatementContext, first: WireReply, shift: number) {
    this.#context = context
    this.#first = first
    this.#shift = shift
    this.queryId = first.id
    this.#nextUri = first.nextUri
  }

  get nextUri(): string {
    return this.#nextUri ?? ''
  }

  /**
   * Runs the statement and gives its pages, the next one being fetched while one is used: two pages at most are held.
   * Leaving early, by `break`, an error or the signal, cancels the statement on the server before it returns.
   */
  async *pages(signal: AbortSignal, onProgress?: (stats: TrinoStats) => void): AsyncGenerator<Page, void, undefined> {
    if (this.#followed) {
      throw new ConfigError('a submitted statement can be followed once', {
        code: 'TRINO_ALREADY_FOLLOWED',
        context: { queryId: this.queryId },
      })
    }
    this.#followed = true
    const left = new AbortController()
    const joined = AbortSignal.any([signal, left.signal])
    // A consumer that holds a page and never asks again would not notice: the server is told at once.
    const abort = (): void => void this.cancel()
    signal.addEventListener('abort', abort, { once: true })
    let ended = false
    let decode: ((rows: unknown[][]) => TrinoValue[][]) | undefined
    let columns: readonly WireColumn[] = []
    try {
      let reply: WireReply = this.#first
      for (;;) {
        joined.throwIfAborted()
        onProgress?.(statsOf(reply.stats))
        if (reply.error !== null && reply.error !== undefined) {
          ended = true
          throw fromServer(reply.error, this.queryId, this.#shift)
        }
        this.#nextUri = reply.nextUri
        ended = reply.nextUri === undefined
        const ahead = reply.nextUri === undefined ? undefined : this.#get(reply.nextUri, joined)
        // Waited for below; until then a failure must not count as unhandled.
        ahead?.catch(() => undefined)
        if (reply.columns !== null && reply.columns !== undefined && decode === undefined) {
          columns = reply.columns
          decode = rowsDecoder(columns)
        }
        yield pageOf(reply, columns, decode)
        if (ahead === undefined) return
        reply = await ahead
      }
    } catch (error) {
      if (HandlerError.is(error) && error.code === 'TRINO_QUERY_LOST') ended = true
      throw error
    } finally {
      signal.removeEventListener('abort', abort)
      if (!ended) {
        await this.cancel()
        left.abort()
      }
    }
  }

  /** Tells the server to stop; a statement that was never followed is forgotten. Never throws. */
  cancel(): Promise<void> {
    this.#followed = true
    return (this.#cancelled ??= this.#nextUri === undefined ? Promise.resolve() : sendCancel(this.#context, this.#nextUri))
  }

  /** Asks for the next answer. Asking again is harmless: the server keeps the answer until the one after it is asked for. */
  async #get(uri: string, signal: AbortSignal): Promise<WireReply> {
    const { http, logger } = this.#context
    let found: HttpReply | WireReply
    try {
      found = await retry(
        async () => {
          const answer = await http.send({ method: 'GET', uri, signal, expected: [200, 404, 410] })
          if (answer.status !== 200) return answer
          refuseSessionChange(answer, this.queryId)
          const reply = parseReply(answer.text)
          if (reply === undefined) throw notTheProtocol(http.target, answer.text)
          return reply
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
      // The statement may be running all the same: nobody may take it for untouched.
      throw HandlerError.is(error) && error.retry === 'safe' ? withVerdict(error, 'if-idempotent', this.queryId) : error
    }
    if ('id' in found) return found
    throw queryLost(this.queryId, found.status)
  }
}

/** DELETEs an address of a statement. Never throws: a statement that cannot be told to stop is told so in the log. */
async function sendCancel({ http, logger }: StatementContext, uri: string): Promise<void> {
  try {
    await http.send({ method: 'DELETE', uri, signal: AbortSignal.timeout(CANCEL_LIMIT_MS), expected: [200, 202, 204, 404, 410] })
  } catch (error) {
    logger.warn({ error: HandlerError.is(error) ? error.code : String(error) }, 'a statement could not be cancelled')
  }
}

function pageOf(
  reply: WireReply,
  columns: readonly WireColumn[],
  decode: ((rows: unknown[][]) => TrinoValue[][]) | undefined,
): Page {
  const wire = reply.data ?? []
  return {
    columns,
    rows: decode === undefined ? (wire as TrinoValue[][]) : decode(wire),
    stats: statsOf(reply.stats),
    updateType: reply.updateType ?? undefined,
    updateCount: reply.updateCount === null || reply.updateCount === undefined ? undefined : Number(reply.updateCount),
  }
}

/** `X-Trino-Set-Session`, `-Clear-Session`, `-Set-Catalog`, `-Added-Prepare`, `-Started-Transaction-Id` and their like. */
const SESSION_CHANGE = /^x-trino-(set|clear|reset|added|deallocated|started)-/

/** A statement that changes the session would be without effect on the next one, and nobody would notice. */
function refuseSessionChange(answer: HttpReply, queryId: string): void {
  const header = Object.keys(answer.headers).find((name) => SESSION_CHANGE.test(name))
  if (header === undefined) return
  throw new ConfigError(
    `the statement changes the session (${header}), and each statement has its own: give catalog, schema, time zone and session properties as options`,
    { code: 'TRINO_SESSION_CHANGE', context: { queryId, header } },
  )
}
