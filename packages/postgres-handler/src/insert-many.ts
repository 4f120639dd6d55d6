import { DataError, NotFoundError } from '@common-handlers/core'
import { untilAborted } from './abort.ts'
import type { Connection } from './connection.ts'
import { quoteIdent } from './sql.ts'
import { textElement } from './values.ts'

/** Rows as objects that have every named column; null is NULL. */
export type InsertRow<C extends string> = { readonly [column in C]: unknown }

/** What happens to a row whose key is there already. */
export interface OnConflict<C extends string> {
  /** Columns of a unique index. */
  readonly key: readonly C[]
  /** Leave the row that is there, or give it the new values of the other columns. */
  readonly action: 'skip' | 'update'
}

/** A statement takes rows until its values have about so many characters, or there are so many of them. */
const STATEMENT_CHARACTERS = 4 * 1024 * 1024
const STATEMENT_ROWS = 20_000

/**
 * Inserts rows as one array a column, which the server takes apart with unnest(): one statement text whatever the number of
 * rows, and no limit of parameters. A value is read by the server as a literal would be.
 */
export async function insertMany<C extends string>(
  connection: Connection,
  table: string,
  columns: readonly C[],
  rows: Iterable<InsertRow<C>> | AsyncIterable<InsertRow<C>>,
  onConflict: OnConflict<C> | undefined,
  signal: AbortSignal,
): Promise<number> {
  if (columns.length === 0) throw new DataError('insertMany needs a column', { code: 'POSTGRES_VALUE_INVALID' })
  const text = await insertStatement(connection, table, columns, onConflict, signal)
  let inserted = 0
  let number = 0
  let characters = 0
  let texts: string[][] = columns.map(() => [])
  const send = async (): Promise<void> => {
    const { rowCount } = await connection.query(
      text,
      texts.map((column) => `{${column.join(',')}}`),
      signal,
    )
    inserted += rowCount
    texts = columns.map(() => [])
    characters = 0
  }
  for await (const row of untilAborted(rows, signal)) {
    number++
    for (const [index, column] of columns.entries()) {
      const value = valueText(row, column, number)
      texts[index]?.push(value)
      characters += value.length
    }
    if (characters >= STATEMENT_CHARACTERS || (texts[0]?.length ?? 0) >= STATEMENT_ROWS) await send()
  }
  if ((texts[0]?.length ?? 0) > 0) await send()
  return inserted
}

const TABLE = `
  SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), a.attname, pg_catalog.format_type(a.atttypid, -1),
         t.typarray <> 0 AND t.typdelim = ',' AND t.typcategory <> 'C'
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
   WHERE c.oid = pg_catalog.to_regclass($1)`

/**
 * Types go without their modifier, so that a text that is too long is an error, as it is for INSERT, and not cut. unnest()
 * takes an array of arrays apart to the bottom, and composites into columns: these come as texts, which are cast.
 */
async function insertStatement<C extends string>(
  connection: Connection,
  table: string,
  columns: readonly C[],
  onConflict: OnConflict<C> | undefined,
  signal: AbortSignal,
): Promise<string> {
  const found = (await connection.query(TABLE, [table], signal)).rows as readonly (readonly [string, string, string, boolean])[]
  const [quoted] = found[0] ?? []
  if (quoted === undefined) {
    throw new NotFoundError(`there is no table ${table}, or its schema is not in the search_path`, {
      code: 'POSTGRES_TABLE_NOT_FOUND',
      context: { table },
    })
  }
  const types = new Map(found.map(([, name, type, hasArray]) => [name, { type, hasArray }]))
  const chosen = columns.map((column) => {
    const type = types.get(column)
    if (type !== undefined) return type
    throw new NotFoundError(`${table} has no column "${column}"`, {
      code: 'POSTGRES_COLUMN_NOT_FOUND',
      context: { table, column },
    })
  })
  const names = columns.map((column) => quoteIdent(column)).join(', ')
  const values = chosen.map(({ type, hasArray }, index) => (hasArray ? `r.c${index}` : `r.c${index}::${type}`))
  const parameters = chosen.map(({ type, hasArray }, index) => `$${index + 1}::${hasArray ? type : 'text'}[]`).join(', ')
  const parts = columns.map((_, index) => `c${index}`).join(', ')
  return `INSERT INTO ${quoted} (${names}) SELECT ${values.join(', ')} FROM unnest(${parameters}) AS r (${parts})${conflictClause(columns, onConflict)}`
}

function conflictClause<C extends string>(columns: readonly C[], onConflict: OnConflict<C> | undefined): string {
  if (onConflict === undefined) return ''
  const { key, action } = onConflict
  const changed = columns
    .filter((column) => !key.includes(column))
    .map((column) => `${quoteIdent(column)} = EXCLUDED.${quoteIdent(column)}`)
  const target = ` ON CONFLICT (${key.map((column) => quoteIdent(column)).join(', ')}) DO`
  return action === 'skip' || changed.length === 0 ? `${target} NOTHING` : `${target} UPDATE SET ${changed.join(', ')}`
}

function valueText<C extends string>(row: InsertRow<C>, column: C, number: number): string {
  try {
    return textElement(row[column], 0)
  } catch (error) {
    const why = error instanceof Error ? error.message.replace(/^parameter \$1: /, '') : String(error)
    throw new DataError(`row ${number}, column "${column}": ${why}`, {
      code: 'POSTGRES_VALUE_INVALID',
      where: { line: number, column },
    })
  }
}
