import { networkSteps } from '@common-handlers/connections/check'
import {
  type CallOptions,
  type CheckAttempt,
  type CheckResult,
  type Closable,
  type CloseOptions,
  Lifecycle,
  retry,
  runCheck,
  Secret,
  withDeadline,
} from '@common-handlers/core'
import type { GsheetsConfig } from './config.ts'
import { type Credentials, readCredentials, signedClaim } from './credentials.ts'
import { answerUnusable, GSHEETS, headerUnusable, toLoginError, toStatusError, watermarkUnusable } from './errors.ts'
import { type CellRange, columnName, formatRange, parseRange } from './range.ts'
import { createTransport, parsed, type Transport } from './transport.ts'

/** What a cell holds; null where it is empty. A formula gives its result, one that fails a text such as `#REF!`. */
export type GsheetsCell = string | number | boolean | null

/** A row: its number in the sheet, and its cells by the names of the header line, or by their columns. */
export interface GsheetsRow {
  readonly row: number
  readonly cells: Readonly<Record<string, GsheetsCell>>
}

export interface GsheetsQuery {
  /** A sheet, or cells in A1 notation: `Orders`, `Orders!A1:D`, `'My orders'!B:F`. */
  readonly range: string
  /** True (the default) where the first row of the range holds the names; false for `A`, `B`, …. */
  readonly header?: boolean | undefined
  /** `value` (the default): numbers are numbers. `shown`: every cell is a text, rounded and written as the sheet shows it. */
  readonly cells?: 'value' | 'shown' | undefined
  /** A date as a value: `serial` (the default), days since 1899-12-30 as the sheet holds it, or `text`, as it is shown. */
  readonly dates?: 'serial' | 'text' | undefined
  /** That of an earlier item: rows after that one. */
  readonly watermark?: string | undefined
}

export interface Sheet {
  readonly title: string
  readonly rows: number
  readonly columns: number
}

export interface Spreadsheet {
  readonly title: string
  /** Those with cells, in their order. */
  readonly sheets: readonly Sheet[]
}

interface Token {
  readonly value: Secret
  readonly until: number
}

/** A token is not used in its last minute. */
const MARGIN_MS = 60_000

/** One spreadsheet, read with a service account. */
export class GsheetsClient implements Closable {
  readonly #config: GsheetsConfig
  readonly #credentials: Credentials
  readonly #transport: Transport
  readonly #life: Lifecycle
  #token: Token | undefined

  constructor(config: GsheetsConfig) {
    this.#config = config
    this.#credentials = readCredentials(config.credentials.expose())
    this.#transport = createTransport(config)
    this.#life = new Lifecycle('GsheetsClient', GSHEETS, () => this.#transport.close())
  }

  /** The spreadsheet, without secrets. */
  get target(): string {
    return `gsheets:${this.#config.spreadsheetId}`
  }

  /** Logs in and opens the spreadsheet. */
  async connect(options?: CallOptions): Promise<void> {
    await this.describe(options)
  }

  /** The name of the spreadsheet, and its sheets. */
  describe(options?: CallOptions): Promise<Spreadsheet> {
    return this.#life.run(options?.signal, (alive) =>
      withDeadline({ ...options, signal: alive }, { prefix: GSHEETS, action: 'opening the spreadsheet' }, ({ signal }) =>
        this.#describe(signal),
      ),
    )
  }

  /** Rows one at a time, a page in memory. Empty ones are left out. */
  async *rows(query: GsheetsQuery, options: Pick<CallOptions, 'signal'> = {}): AsyncGenerator<GsheetsRow, void, undefined> {
    const { range, header = true, watermark } = query
    const after = watermark === undefined ? 0 : Number(watermark)
    if (!Number.isSafeInteger(after) || after < 0 || watermark === '') throw watermarkUnusable(watermark ?? '')
    const leave = this.#life.hold()
    try {
      const signal = AbortSignal.any([this.#life.signal, ...(options.signal === undefined ? [] : [options.signal])])
      const { sheets } = await this.#describe(signal)
      const area = parseRange(range, sheets)
      const names = await this.#names(area, header, query, signal)
      const { pageRows } = this.#config
      for (let first = Math.max(area.firstRow + (header ? 1 : 0), after + 1); first <= area.lastRow; first += pageRows) {
        const page = await this.#values(area, first, Math.min(area.lastRow, first + pageRows - 1), query, signal)
        for (const [index, values] of page.entries()) {
          signal.throwIfAborted()
          if (values.some((value) => value !== null)) yield { row: first + index, cells: namedCells(names, values) }
        }
      }
    } finally {
      leave()
    }
  }

  /** Looks at the network, logs in and opens the spreadsheet. */
  check(options?: CallOptions): Promise<CheckResult> {
    const { apiUrl, spreadsheetId } = this.#config
    const { tokenUri, clientEmail } = this.#credentials
    const signal = options?.signal ?? new AbortController().signal
    const origins = [...new Set([new URL(tokenUri).origin, new URL(apiUrl).origin])]
    const steps: CheckAttempt[] = [
      ...origins.flatMap((origin) => this.#network(origin, signal)),
      { name: `log in as ${clientEmail}`, run: () => this.#access(signal).then(() => undefined) },
      {
        name: `open ${spreadsheetId}`,
        run: async () => {
          const { title, sheets } = await this.#describe(signal)
          return `${title}: ${sheets.map((sheet) => `${sheet.title} (${sheet.rows} rows)`).join(', ')}`
        },
      },
    ]
    return this.#life.run(options?.signal, () => runCheck(this.target, steps, signal))
  }

  close(options?: CloseOptions): Promise<void> {
    return this.#life.close(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #network(origin: string, signal: AbortSignal): CheckAttempt[] {
    const { hostname: host, port, protocol } = new URL(origin)
    const isSecure = protocol === 'https:'
    const number = port === '' ? (isSecure ? 443 : 80) : Number(port)
    return networkSteps({ host, port: number, signal, ...(isSecure ? { tls: { ca: this.#config.ca } } : {}) })
  }

  async #describe(signal: AbortSignal): Promise<Spreadsheet> {
    const fields = 'properties.title,sheets.properties(title,gridProperties(rowCount,columnCount))'
    const { properties, sheets } = (await this.#ask('', { fields }, signal)) as {
      readonly properties?: { readonly title?: string }
      readonly sheets?: readonly {
        readonly properties: {
          readonly title: string
          readonly gridProperties?: { readonly rowCount?: number; readonly columnCount?: number }
        }
      }[]
    }
    if (typeof properties?.title !== 'string' || !Array.isArray(sheets)) throw answerUnusable(this.target, 'it is no spreadsheet')
    return {
      title: properties.title,
      // A chart that is a sheet of its own has no cells.
      sheets: sheets.flatMap(({ properties: { title, gridProperties: grid } }) =>
        grid === undefined ? [] : [{ title, rows: grid.rowCount ?? 0, columns: grid.columnCount ?? 0 }],
      ),
    }
  }

  async #names(area: CellRange, header: boolean, query: GsheetsQuery, signal: AbortSignal): Promise<readonly string[]> {
    const columns = Array.from({ length: area.lastColumn - area.firstColumn + 1 }, (_, index) =>
      columnName(area.firstColumn + index),
    )
    if (!header) return columns
    const [line = []] = await this.#values(area, area.firstRow, area.firstRow, { ...query, cells: 'shown' }, signal)
    if (line.length === 0) throw headerUnusable(area.sheet, area.firstRow, 'is empty')
    const names = columns.map((column, index) => String(line[index] ?? column))
    const twice = names.find((name, index) => names.indexOf(name) !== index)
    if (twice !== undefined) throw headerUnusable(area.sheet, area.firstRow, `has "${twice}" twice`)
    return names
  }

  /** Rows of cells; the API leaves out empty rows at the end, and empty cells at the end of a row. */
  async #values(
    area: CellRange,
    firstRow: number,
    lastRow: number,
    { cells = 'value', dates = 'serial' }: GsheetsQuery,
    signal: AbortSignal,
  ): Promise<readonly (readonly GsheetsCell[])[]> {
    const range = formatRange(area, firstRow, lastRow)
    const { values = [] } = (await this.#ask(
      `/values/${encodeURIComponent(range)}`,
      {
        majorDimension: 'ROWS',
        valueRenderOption: cells === 'shown' ? 'FORMATTED_VALUE' : 'UNFORMATTED_VALUE',
        dateTimeRenderOption: dates === 'text' ? 'FORMATTED_STRING' : 'SERIAL_NUMBER',
      },
      signal,
    )) as { readonly values?: unknown }
    if (!Array.isArray(values) || !values.every(Array.isArray)) throw answerUnusable(this.target, `${range} has no rows of cells`)
    return (values as readonly (readonly GsheetsCell[])[]).map((row) => row.map((cell) => (cell === '' ? null : cell)))
  }

  /** A read, tried again as the documentation of the quotas asks for: after waits that double, up to about a minute. */
  #ask(path: string, query: Readonly<Record<string, string>>, signal: AbortSignal): Promise<Readonly<Record<string, unknown>>> {
    const { apiUrl, spreadsheetId } = this.#config
    const url = new URL(`${apiUrl.replace(/\/$/, '')}/v4/spreadsheets/${spreadsheetId}${path}`)
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value)
    return this.#retry(signal, async (limit) => {
      for (let isFresh = false; ; isFresh = true) {
        const token = await this.#access(limit)
        const headers = { authorization: `Bearer ${token.value.expose()}` }
        const answer = await this.#transport.send({ url, headers, signal: limit, place: this.target })
        // A token may be taken back before its time; a new one is asked for once.
        if (answer.status === 401 && !isFresh) this.#token = undefined
        else if (answer.status === 200) return parsed(answer.body, this.target)
        else throw toStatusError(answer.status, answer.body, this.target, answer.retryAfter)
      }
    })
  }

  #retry<T>(signal: AbortSignal, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const { timeoutMs, attempts, retryBudgetMs: budgetMs } = this.#config
    const what = { prefix: GSHEETS, action: 'asking Google Sheets' }
    return retry(() => withDeadline({ signal, timeoutMs }, what, (deadline) => work(deadline.signal)), {
      signal,
      idempotent: true,
      policy: { attempts, budgetMs, baseDelayMs: 1000, maxDelayMs: 64_000 },
    })
  }

  async #access(signal: AbortSignal): Promise<Token> {
    if (this.#token !== undefined && this.#token.until > Date.now()) return this.#token
    return (this.#token = await this.#login(signal))
  }

  async #login(signal: AbortSignal): Promise<Token> {
    const { tokenUri, clientEmail } = this.#credentials
    const now = Date.now()
    const body = new URLSearchParams({
      grant_type: 'urn:ietf:params:oauth:grant-type:jwt-bearer',
      assertion: signedClaim(this.#credentials, now),
    })
    const place = `the login of ${clientEmail}`
    const answer = await this.#transport.send({
      url: new URL(tokenUri),
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
      body: body.toString(),
      signal,
      place,
    })
    if (answer.status !== 200) throw toLoginError(answer.status, answer.body, clientEmail, answer.retryAfter)
    const { access_token: token, expires_in: seconds } = parsed(answer.body, place)
    if (typeof token !== 'string' || typeof seconds !== 'number') throw answerUnusable(place, 'there is no token in the answer')
    return { value: new Secret(token), until: now + Math.max(0, seconds * 1000 - MARGIN_MS) }
  }
}

const namedCells = (names: readonly string[], values: readonly GsheetsCell[]): Record<string, GsheetsCell> =>
  Object.fromEntries(names.map((name, index) => [name, values[index] ?? null]))
