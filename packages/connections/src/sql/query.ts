/** What to read from a database. */
export type SqlQuery<Parameters = readonly unknown[]> = SqlStatementQuery<Parameters> | SqlTableQuery

/** The rows of a statement, in its own order. */
export interface SqlStatementQuery<Parameters = readonly unknown[]> {
  readonly sql: string
  readonly parameters?: Parameters | undefined
}

/** The rows of a table or view; with a watermark column those that are new, in the order of that column and then of the key. */
export interface SqlTableQuery {
  readonly table: string
  /** Default: where the database itself looks for it. */
  readonly schema?: string | undefined
  /** Default: all. */
  readonly columns?: readonly string[] | undefined
  /** A column that grows: new rows have a higher value than those read before. Rows that have none are not read. */
  readonly watermarkColumn?: string | undefined
  /** What tells rows of one watermark apart, never NULL. Default: the primary key. A view has none. */
  readonly keyColumns?: readonly string[] | undefined
  /** That of the last item of an earlier run: only what comes after it is read. */
  readonly watermark?: string | undefined
}
