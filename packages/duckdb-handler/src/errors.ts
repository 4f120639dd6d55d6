import {
  CapacityError,
  ConfigError,
  ConflictError,
  ConnectionError,
  DataError,
  HandlerError,
  type HandlerErrorOptions,
  NotFoundError,
  PermissionError,
  RemoteError,
} from '@common-handlers/core'

type Build = (message: string, options: HandlerErrorOptions & { readonly serverCode: string }) => HandlerError

const conflict: Build = (message, options) => new ConflictError(message, options)
const missing: Build = (message, options) => new NotFoundError(message, options)
const forbidden: Build = (message, options) => new PermissionError(message, options)
const capacity: Build = (message, options) => new CapacityError(message, options)
const config: Build = (message, options) => new ConfigError(message, options)
const data: Build = (message, options) => new DataError(message, { ...options, where: csvPlace(message) })
const remote: Build = (message, options) => new RemoteError(message, options)
const connection: Build = (message, options) => new ConnectionError(message, options)

interface Rule {
  /** What DuckDB calls the error: `Catalog` of `Catalog Error: …`; absent for messages without a name. */
  readonly kind?: RegExp
  readonly message?: RegExp
  readonly code: string
  readonly retry?: HandlerErrorOptions['retry']
  readonly build: Build
  readonly advice?: string
}

/** The first rule that fits. DuckDB's driver gives its errors no code: the name at the beginning of the message is all there is. */
const rules: readonly Rule[] = [
  { kind: /^INTERRUPT$/, code: 'DUCKDB_INTERRUPTED', retry: 'if-idempotent', build: connection },
  {
    message: /Could not set lock on file|Conflicting lock/i,
    code: 'DUCKDB_LOCKED',
    retry: 'safe',
    build: conflict,
    advice: 'another process has the file open: wait for it or end it, or open the file with readOnly in both',
  },
  {
    message: /same database file with a different configuration/,
    code: 'DUCKDB_OPEN_OTHERWISE',
    build: conflict,
    advice: 'close the other handler of this process, or give both the same options',
  },
  {
    message: /No space left on device|disk quota exceeded|File too large/i,
    code: 'DUCKDB_DISK_FULL',
    build: capacity,
    advice: 'free room on the disk',
  },
  {
    kind: /^Out of Memory$/,
    message: /offload data block|max_temp_directory_size/,
    code: 'DUCKDB_TEMP_FULL',
    build: capacity,
    advice: 'raise maxTempDirectorySize, or free room in the temporary folder',
  },
  { kind: /^Out of Memory$/, code: 'DUCKDB_OUT_OF_MEMORY', build: capacity, advice: 'raise memoryLimit, or lower threads' },
  {
    message: /not a valid DuckDB database file/,
    code: 'DUCKDB_FILE_UNUSABLE',
    build: data,
    advice: 'give the path of a database or of a file that is not there yet; delete this one only if it is empty or of no use',
  },
  {
    message: /checksum|corrupt|newer version of DuckDB|older version of DuckDB/i,
    code: 'DUCKDB_FILE_UNUSABLE',
    build: data,
  },
  { kind: /^Serialization$/, code: 'DUCKDB_FILE_UNUSABLE', build: data },
  { kind: /^IO$|^Permission$/, message: /Permission denied|Read-only file system/i, code: 'DUCKDB_FORBIDDEN', build: forbidden },
  { message: /read-only mode!|in read-only mode(?!: database does not exist)/, code: 'DUCKDB_READ_ONLY', build: forbidden },
  {
    kind: /^IO$/,
    message: /No such file or directory|No files found|database does not exist|Is a directory/,
    code: 'DUCKDB_FILE_NOT_FOUND',
    build: missing,
  },
  {
    message: /CSV Error on Line|not a GZIP stream|ZSTD Decompression|Failed to decode gzip/i,
    code: 'DUCKDB_CSV_BROKEN',
    build: data,
  },
  { kind: /^IO$/, code: 'DUCKDB_IO', retry: 'if-idempotent', build: remote },
  { kind: /^Catalog$|^Dependency$/, message: /already exists|depend/i, code: 'DUCKDB_EXISTS', build: conflict },
  { kind: /^Catalog$/, code: 'DUCKDB_NOT_FOUND', build: missing },
  {
    kind: /^Binder$/,
    message: /^Referenced (column|table)|does not have a column|does not exist/,
    code: 'DUCKDB_NOT_FOUND',
    build: missing,
  },
  { kind: /^Constraint$/, code: 'DUCKDB_CONSTRAINT', build: conflict },
  { kind: /^Transaction(Context)?$/, message: /conflict/i, code: 'DUCKDB_TRANSACTION_CONFLICT', retry: 'safe', build: conflict },
  { kind: /^Invalid Input$/, message: /options were not recognized/, code: 'DUCKDB_CONFIG_INVALID', build: config },
  { message: /^Failed to set config/, code: 'DUCKDB_CONFIG_INVALID', build: config },
  {
    kind: /^(Conversion|Invalid Input|Out of Range|Mismatch Type|Decimal|Divide by Zero)$/,
    code: 'DUCKDB_VALUE_INVALID',
    build: data,
  },
  {
    kind: /^(Parser|Syntax|Binder|Parameter Not Resolved|Parameter Not Allowed|Not implemented|Missing Extension|Expression|Invalid type)$/i,
    code: 'DUCKDB_STATEMENT_INVALID',
    build: remote,
  },
]

/** An error of the driver as one of ours; `place` names what was done and to which file. What is ours already is given back. */
export function toDuckDbError(error: unknown, place: { readonly path: string; readonly action: string }): unknown {
  if (HandlerError.is(error) || !(error instanceof Error)) return error
  const [, kind = '', rest = error.message] =
    /^(?:Failed to bind value: )?([A-Za-z ]{2,40}?) Error: (.*)$/s.exec(error.message) ?? []
  const rule = rules.find((one) => (one.kind?.test(kind) ?? true) && (one.message?.test(rest) ?? true))
  const { code, build, retry, advice } = rule ?? { code: 'DUCKDB_FAILED', build: remote }
  const told = readable(rest)
  const pid = /PID (\d+)/.exec(rest)?.[1]
  const cause = Object.assign(new Error(told), { name: `${kind === '' ? 'DuckDB' : kind} Error` })
  return build(`${told}${advice === undefined ? '' : ` (${advice})`}`, {
    code,
    ...(retry === undefined ? {} : { retry }),
    context: { path: place.path, action: place.action, ...(pid === undefined ? {} : { pid: Number(pid) }) },
    cause,
    serverCode: kind === '' ? 'UNKNOWN' : kind,
  })
}

/**
 * DuckDB's message without the statement (`LINE 1: …`), the row of a CSV (`Original Line: …`, of any length) and general
 * advice: what is left says what and where, and shows no data but the value in question.
 */
function readable(message: string): string {
  const file = /^\s+file = (.*)$/m.exec(message)?.[1]
  const kept = message
    .replace(/\n+LINE \d+:[\s\S]*$/, '')
    .replace(/\n\s*(?:Possible (?:fixes|Solution)|file = |See also )[\s\S]*$/, '')
    .replace(/^Original Line: [\s\S]*?\n(?=(?:Expected|Value|Invalid|Error|Maximum|Could|CSV|The|Too|Wrong|Line|\n)|$)/m, '')
    .replace(/\s*\n+\s*/g, '; ')
    .replace(/[;\s]+$/, '')
  const cut = kept.length > 600 ? `${kept.slice(0, 600)}…` : kept
  return file === undefined ? cut : `${file}: ${cut}`
}

function csvPlace(message: string): { file?: string; line?: number } {
  const [, file, line] = /^(?:(.*?): )?CSV Error on Line: (\d+)/.exec(message) ?? []
  return { ...(file === undefined ? {} : { file }), ...(line === undefined ? {} : { line: Number(line) }) }
}

export const duplicateColumn = (name: string): DataError =>
  new DataError(`two columns of the result are named "${name}": give one of them another name with AS`, {
    code: 'DUCKDB_DUPLICATE_COLUMN',
    where: { column: name },
  })

export const valueNotBindable = (index: number, type: string): ConfigError =>
  new ConfigError(
    `parameter ${index + 1}: ${type} cannot be passed to DuckDB; pass null, a string, number, bigint, boolean or Uint8Array`,
    {
      code: 'DUCKDB_PARAMETER_INVALID',
    },
  )
