import { DataError } from '@common-handlers/core'

const brand = Symbol.for('@common-handlers/postgres-sql')

/** SQL text with `$1`, `$2`, … and the values that stand for them. Made by {@link sql}. */
export interface SqlStatement {
  readonly text: string
  readonly values: readonly unknown[]
}

/** A name that is put into a statement quoted. Made by {@link ident}. */
export interface SqlIdentifier {
  readonly quoted: string
}

/**
 * A statement whose `${}` are bound values, never text: ``sql`select * from ${ident('app', 'log')} where id > ${last}` ``.
 * A statement inside a statement is inlined with its values; `ident()` gives names.
 */
export function sql(strings: TemplateStringsArray, ...parts: readonly unknown[]): SqlStatement {
  let text = ''
  const values: unknown[] = []
  for (const [index, string] of strings.entries()) {
    text += string
    if (index >= parts.length) continue
    const part = parts[index]
    if (isIdentifier(part)) text += part.quoted
    else if (isStatement(part)) {
      text += renumber(part.text, values.length)
      values.push(...part.values)
    } else {
      values.push(part)
      text += `$${values.length}`
    }
  }
  return Object.defineProperty({ text, values }, brand, { value: 'statement' })
}

/** A name for {@link sql}, quoted: `ident('app', 'log')` is `"app"."log"`. */
export function ident(...names: readonly [string, ...string[]]): SqlIdentifier {
  return Object.defineProperty({ quoted: names.map(quoteIdent).join('.') }, brand, { value: 'identifier' })
}

/** `"a ""quoted"" name"`. For statements that take no bound values, such as COPY. */
export function quoteIdent(name: string): string {
  if (name === '' || name.includes('\0')) throw notSql('a name cannot be empty or hold NUL')
  return `"${name.replaceAll('"', '""')}"`
}

/** `'it''s'`, with backslashes as an E-string, as PostgreSQL's quote_literal() does. For statements that take no bound values. */
export function quoteLiteral(text: string): string {
  if (text.includes('\0')) throw notSql('PostgreSQL cannot hold NUL in a text')
  const quoted = `'${text.replaceAll("'", "''")}'`
  return text.includes('\\') ? ` E${quoted.replaceAll('\\', '\\\\')}` : quoted
}

export function isStatement(value: unknown): value is SqlStatement {
  return branded(value) === 'statement'
}

function isIdentifier(value: unknown): value is SqlIdentifier {
  return branded(value) === 'identifier'
}

const branded = (value: unknown): unknown =>
  typeof value === 'object' && value !== null ? (value as { [brand]?: unknown })[brand] : undefined

const notSql = (message: string): DataError => new DataError(message, { code: 'POSTGRES_VALUE_INVALID' })

/** Texts, quoted names and comments are left alone: a `$1` in them is no parameter. */
const QUOTED_OR_PARAMETER = /[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|\/\*[\s\S]*?\*\/|\$(\d+)/g

function renumber(text: string, by: number): string {
  return by === 0
    ? text
    : text.replace(QUOTED_OR_PARAMETER, (all, number?: string) => (number === undefined ? all : `$${Number(number) + by}`))
}
