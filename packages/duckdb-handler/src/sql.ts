/** `"a ""quoted"" name"` */
export function ident(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}

/** What can stand in a statement as a literal, and be passed as a parameter. */
export type DuckDbInput = null | string | number | bigint | boolean | Uint8Array

/** A value as SQL, of any content. Parameters are better where a statement takes them; DDL and table functions do not. */
export function literal(value: DuckDbInput): string {
  if (value === null) return 'NULL'
  if (typeof value === 'boolean') return value ? 'TRUE' : 'FALSE'
  if (typeof value === 'bigint') return `'${value}'::HUGEINT`
  if (typeof value === 'number') return `'${Object.is(value, -0) ? '-0' : String(value)}'::DOUBLE`
  if (typeof value !== 'string') return `unhex('${Buffer.from(value).toString('hex')}')`
  // The parser takes NUL for the end of the statement.
  const parts = value.split('\0').map((part) => `'${part.replaceAll("'", "''")}'`)
  return parts.length === 1 ? (parts[0] ?? "''") : `(${parts.join(' || chr(0) || ')})`
}

/** How `readCsv` reads. The defaults are the files of a dataset's run. */
export interface ReadCsvOptions {
  /** How NULL is written; quoted, it is the text itself. Default `\N`. */
  readonly null?: string | undefined
  /** False for files without a line of names. Default true. DuckDB does not compare the names with those given here. */
  readonly header?: boolean | undefined
  /** Default: by the suffix, `.gz` or `.zst`. */
  readonly compression?: 'auto' | 'gzip' | 'zstd' | 'none' | undefined
  /** The longest row, in bytes; each file that is read at the time takes a buffer of twice that size. Default 16 MiB. */
  readonly maxRowBytes?: number | undefined
}

/**
 * A `read_csv(…)` for a FROM clause: files of many gzip members or zstd frames, all columns VARCHAR as they stand in the
 * file, nothing guessed. A row that is not as it should be is an error (DUCKDB_CSV_BROKEN) with its file and line.
 */
export function readCsv(files: readonly string[], columns: readonly string[], options: ReadCsvOptions = {}): string {
  const longest = options.maxRowBytes ?? 16 * 1024 * 1024
  const settings = {
    columns: `{${columns.map((name) => `${literal(name)}: 'VARCHAR'`).join(', ')}}`,
    auto_detect: 'false',
    header: String(options.header ?? true),
    delim: "','",
    quote: `'"'`,
    escape: `'"'`,
    new_line: String.raw`'\n'`,
    nullstr: literal(options.null ?? '\\N'),
    allow_quoted_nulls: 'false',
    strict_mode: 'true',
    compression: literal(options.compression ?? 'auto'),
    max_line_size: String(longest),
    // DuckDB's own choice is 16 times the longest row, for each thread; 32 MiB is what it takes for the default of 2 MiB.
    buffer_size: String(Math.max(2 * longest, 32 * 1024 * 1024)),
  }
  // A literal file name is a pattern: each of its special characters is put into a set of its own.
  const names = files.map((file) => literal(file.replace(/[*?[]/g, '[$&]')))
  return `read_csv([${names.join(', ')}], ${Object.entries(settings)
    .map(([key, value]) => `${key} = ${value}`)
    .join(', ')})`
}
