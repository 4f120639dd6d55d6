import { isUtf8 } from 'node:buffer'
import { Readable } from 'node:stream'
import {
  type CallOptions,
  type Compression,
  ConfigError,
  DataError,
  type DataLocation,
  decompress,
  issuePath,
  type StandardSchema,
} from '@common-handlers/core'
import type { ReadFrom } from './driver.ts'

/** Reading text: which version, under which key, and whether to decompress it. */
export interface S3TextOptions extends CallOptions, ReadFrom {
  /**
   * `auto` decompresses what `Content-Encoding` or, without one, the suffix `.gz` or `.zst` of the key says, members and
   * frames that follow each other included. Default `auto`; `false` takes the bytes as they are stored.
   */
  readonly decompress?: 'auto' | false | undefined
}

export interface S3LinesOptions extends S3TextOptions {
  /** A longer line is an error: what has no line breaks would fill the memory. Default 16 MiB. */
  readonly maxLineBytes?: number | undefined
}

/** How the rows of a CSV come: as objects or as arrays. */
export interface S3CsvOptions<Header extends boolean | readonly string[] = true> extends S3TextOptions {
  /**
   * `true`: the first row names the columns, rows are objects (the default). Names: there is no header row, rows are
   * objects of these names. `false`: every row is an array.
   */
  readonly header?: Header | undefined
  /** One character. Default `,`. */
  readonly delimiter?: string | undefined
  /** A longer row is an error: a quote that is never closed would read all of the object as one. Default 16 MiB. */
  readonly maxRowBytes?: number | undefined
}

export type S3CsvRow<Header extends boolean | readonly string[]> = Header extends false ? string[] : Record<string, string>

const DEFAULT_MAX_BYTES = 16 * 1024 * 1024
const LF = 10

/** @throws ConfigError `S3_ENCODING_UNKNOWN` */
export function compressionOf(key: string, contentEncoding: string | undefined): Compression {
  const encodings = (contentEncoding ?? '').split(',').map((encoding) => encoding.trim().toLowerCase())
  // `aws-chunked` is how a body travelled, and some servers keep it.
  const encoding = encodings.filter((one) => one !== '' && one !== 'identity' && one !== 'aws-chunked').join(', ')
  if (encoding === '') return key.endsWith('.gz') ? 'gzip' : key.endsWith('.zst') ? 'zstd' : 'none'
  if (encoding === 'gzip' || encoding === 'x-gzip') return 'gzip'
  if (encoding === 'zstd') return 'zstd'
  throw new ConfigError(`the content encoding "${encoding}" of "${key}" is not known; read it with decompress: false`, {
    code: 'S3_ENCODING_UNKNOWN',
    context: { key, encoding },
  })
}

/** The body decompressed; destroying it destroys the body. Damaged bytes: DataError `S3_COMPRESSION_BROKEN`. */
export function decompressed(body: Readable, compression: Compression, where: string): Readable {
  if (compression === 'none') return body
  const out = Readable.from(explained(decompress(body, compression), compression, where), { objectMode: false })
  return out.once('close', () => body.destroy())
}

async function* explained(stream: Readable, compression: Compression, where: string): AsyncGenerator<Uint8Array> {
  try {
    yield* stream as AsyncIterable<Uint8Array>
  } catch (cause) {
    const { code = '', message } = cause as NodeJS.ErrnoException
    if (!/^Z(STD)?_/.test(code)) throw cause
    throw new DataError(
      `the ${compression} bytes of ${where} are damaged or cut off (${message}); decompress: false gives them as they are`,
      {
        code: 'S3_COMPRESSION_BROKEN',
        where: { file: where },
        cause,
      },
    )
  }
}

/** @throws DataError `S3_NOT_UTF8` */
export function asText(bytes: Uint8Array, where: string): string {
  if (isUtf8(bytes)) return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString()
  throw new DataError(`${where} is not UTF-8 text`, { code: 'S3_NOT_UTF8', where: { file: where } })
}

/** @throws DataError `S3_NOT_JSON` */
export function asJson(text: string, where: string): unknown {
  try {
    return JSON.parse(text) as unknown
  } catch (cause) {
    const problem = `${where} is not JSON: ${(cause as Error).message}`
    throw new DataError(problem, { code: 'S3_NOT_JSON', where: { file: where }, cause })
  }
}

/** @throws DataError `S3_JSON_INVALID` with what the schema says */
export async function validated<T>(value: unknown, schema: StandardSchema<T>, where: string): Promise<T> {
  const result = await schema['~standard'].validate(value)
  if (result.issues === undefined) return result.value
  const problems = result.issues.map((issue) => `${issuePath(issue) || '(top)'}: ${issue.message}`)
  throw new DataError(`${where} is not as its schema says:\n${problems.map((line) => `  ${line}`).join('\n')}`, {
    code: 'S3_JSON_INVALID',
    where: { file: where },
    context: { problems },
  })
}

/** The lines without their ends, which are LF or CRLF; the last one may have none. */
export async function* readLines(
  bytes: AsyncIterable<Uint8Array>,
  where: string,
  maxLineBytes: number = DEFAULT_MAX_BYTES,
): AsyncGenerator<string, void, undefined> {
  for await (const block of lineBlocks(bytes, where, maxLineBytes)) {
    const lines = block.split('\n')
    const last = lines.pop() ?? ''
    for (const line of lines) yield line.endsWith('\r') ? line.slice(0, -1) : line
    if (last !== '') yield last
  }
}

/** Rows of a CSV as RFC 4180 has them, with LF or CRLF; a byte order mark and empty lines are left out. */
export async function* readCsvRows<Header extends boolean | readonly string[]>(
  bytes: AsyncIterable<Uint8Array>,
  where: string,
  options: S3CsvOptions<Header>,
): AsyncGenerator<S3CsvRow<Header>, void, undefined> {
  const { header = true, delimiter = ',', maxRowBytes = DEFAULT_MAX_BYTES } = options
  let columns: readonly string[] | undefined = typeof header === 'boolean' ? undefined : header
  if (columns !== undefined) assertColumns(columns, { file: where })
  for await (const { row, line } of csvRows(bytes, where, maxRowBytes)) {
    if (row === '' && columns?.length !== 1) continue
    const place = { file: where, line }
    const fields = csvFields(row, delimiter, place)
    if (header === false) {
      yield fields as S3CsvRow<Header>
    } else if (columns === undefined) {
      assertColumns(fields, place)
      columns = fields
    } else {
      if (fields.length !== columns.length)
        throw csvBroken(place, `${fields.length} fields, but there are ${columns.length} columns`)
      yield Object.fromEntries(columns.map((name, index) => [name, fields[index]])) as S3CsvRow<Header>
    }
  }
}

/** @throws ConfigError `S3_OPTIONS_INVALID` */
export function assertDelimiter(delimiter: string | undefined): void {
  if (delimiter === undefined || (delimiter.length === 1 && !'"\r\n'.includes(delimiter))) return
  throw new ConfigError('the delimiter of a CSV is one character, and neither a quote nor a line break', {
    code: 'S3_OPTIONS_INVALID',
  })
}

/** Text in blocks of whole lines; only the last one may end without LF. */
async function* lineBlocks(bytes: AsyncIterable<Uint8Array>, where: string, maxBytes: number): AsyncGenerator<string> {
  let pending: Uint8Array[] = []
  let pendingBytes = 0
  let line = 1
  const text = (block: Buffer): string => {
    if (!isUtf8(block)) throw notUtf8(block, line, where)
    let from = 0
    for (let at = block.indexOf(LF); at !== -1; at = block.indexOf(LF, from)) {
      if (at - from > maxBytes) throw tooLong(where, line, maxBytes)
      from = at + 1
      line++
    }
    return block.toString()
  }
  for await (const chunk of bytes) {
    const end = chunk.lastIndexOf(LF) + 1
    if (end > 0) {
      yield text(Buffer.concat([...pending, chunk.subarray(0, end)]))
      pending = []
      pendingBytes = 0
    }
    const tail = chunk.subarray(end)
    if (tail.byteLength === 0) continue
    pending.push(tail)
    pendingBytes += tail.byteLength
    if (pendingBytes > maxBytes) throw tooLong(where, line, maxBytes)
  }
  if (pendingBytes > 0) yield text(Buffer.concat(pending))
}

function notUtf8(block: Buffer, firstLine: number, where: string): DataError {
  let line = firstLine
  for (let from = 0; from < block.length; line++) {
    const end = block.indexOf(LF, from)
    const to = end === -1 ? block.length : end + 1
    if (!isUtf8(block.subarray(from, to))) break
    from = to
  }
  return new DataError(`line ${line} of ${where} is not UTF-8`, { code: 'S3_NOT_UTF8', where: { file: where, line } })
}

function tooLong(where: string, line: number, maxBytes: number): DataError {
  return new DataError(`line ${line} of ${where} is longer than ${maxBytes} bytes`, {
    code: 'S3_LINE_TOO_LONG',
    where: { file: where, line },
    context: { maxBytes },
  })
}

/** Cuts a CSV into rows, each with the line on which it begins. A line break between quotes belongs to its row. */
async function* csvRows(
  bytes: AsyncIterable<Uint8Array>,
  where: string,
  maxBytes: number,
): AsyncGenerator<{ readonly row: string; readonly line: number }> {
  let begun = ''
  let quoted = false
  let line = 1
  let lines = 1
  let first = true
  for await (const block of lineBlocks(bytes, where, maxBytes)) {
    const text = first && block.startsWith('\ufeff') ? block.slice(1) : block
    first = false
    let from = 0
    let quote = text.indexOf('"')
    for (let lf = text.indexOf('\n'); lf !== -1; lf = text.indexOf('\n', lf + 1)) {
      for (; quote !== -1 && quote < lf; quote = text.indexOf('"', quote + 1)) quoted = !quoted
      lines++
      if (quoted) continue
      const end = text.charCodeAt(lf - 1) === 13 && lf > from ? lf - 1 : lf
      yield { row: begun + text.slice(from, end), line }
      begun = ''
      from = lf + 1
      line = lines
    }
    for (; quote !== -1; quote = text.indexOf('"', quote + 1)) quoted = !quoted
    begun += text.slice(from)
    if (begun.length > maxBytes)
      throw csvBroken({ file: where, line }, `the row is longer than ${maxBytes} bytes: is a quote not closed?`)
  }
  if (quoted) throw csvBroken({ file: where, line }, 'a quote is opened in this row and never closed')
  if (begun !== '') yield { row: begun, line }
}

function csvFields(row: string, delimiter: string, place: DataLocation): string[] {
  if (!row.includes('"')) return row.split(delimiter)
  const fields: string[] = []
  for (let from = 0; from <= row.length;) {
    if (row[from] !== '"') {
      const found = row.indexOf(delimiter, from)
      const end = found === -1 ? row.length : found
      const field = row.slice(from, end)
      if (field.includes('"')) throw csvBroken(place, `field ${fields.length + 1} has a quote inside and none around it`)
      fields.push(field)
      from = end + 1
      continue
    }
    let close = row.indexOf('"', from + 1)
    while (close !== -1 && row[close + 1] === '"') close = row.indexOf('"', close + 2)
    if (close === -1) throw csvBroken(place, `field ${fields.length + 1}: a quote is opened and not closed`)
    if (close + 1 < row.length && row[close + 1] !== delimiter)
      throw csvBroken(place, `field ${fields.length + 1}: something follows the closing quote`)
    fields.push(row.slice(from + 1, close).replaceAll('""', '"'))
    from = close + 2
  }
  return fields
}

function assertColumns(columns: readonly string[], place: DataLocation): void {
  const twice = columns.find((name, index) => columns.indexOf(name) !== index)
  if (twice === undefined) return
  throw csvBroken(place, `two columns are called ${JSON.stringify(twice)}; read the rows as arrays (header: false) or name them`)
}

function csvBroken(where: DataLocation, problem: string): DataError {
  const line = where.line === undefined ? '' : `line ${where.line} of `
  return new DataError(`${line}${where.file ?? 'the CSV'}: ${problem}`, { code: 'S3_CSV_BROKEN', where })
}
