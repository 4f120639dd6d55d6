import { ConfigError } from '@common-handlers/core'
import { literal, notExpressible, type TrinoParameter } from './literal.ts'

/** A statement with its values: `?` in the text stands for the next of them. */
export interface SqlStatement {
  readonly text: string
  readonly values: readonly TrinoParameter[]
}

/** A piece of SQL that may stand inside another: made by {@link sql} and {@link ident}. */
export class SqlFragment implements SqlStatement {
  readonly text: string
  readonly values: readonly TrinoParameter[]
  constructor(text: string, values: readonly TrinoParameter[] = []) {
    this.text = text
    this.values = values
  }
  /** The text alone, so that `ident()` may stand in an ordinary template too. */
  toString(): string {
    return this.text
  }
}

/**
 * A statement whose values are bound, never pasted:
 * ``trino.query(sql`SELECT * FROM ${ident('lake', 'app', 'audit_log')} WHERE id > ${lastId}`)``.
 * A fragment inside is taken over with its values.
 */
export function sql(strings: TemplateStringsArray, ...values: readonly (TrinoParameter | SqlFragment)[]): SqlFragment {
  let text = strings[0] ?? ''
  const bound: TrinoParameter[] = []
  values.forEach((value, index) => {
    if (value instanceof SqlFragment) {
      text += value.text
      bound.push(...value.values)
    } else {
      text += '?'
      bound.push(value)
    }
    text += strings[index + 1] ?? ''
  })
  return new SqlFragment(text, bound)
}

/** A name, quoted: `ident('lake', 'app', 'audit_log')` is `"lake"."app"."audit_log"`. Trino compares names without case. */
export function ident(...parts: readonly string[]): SqlFragment {
  if (parts.length === 0 || parts.some((part) => part === '' || !part.isWellFormed())) {
    throw new ConfigError('an identifier is empty or not valid Unicode', { code: 'TRINO_IDENTIFIER_INVALID' })
  }
  return new SqlFragment(parts.map((part) => `"${part.replaceAll('"', '""')}"`).join('.'))
}

/** What the server is sent. */
export interface RenderedStatement {
  readonly text: string
  /** How far to the right the server sees the caller's text: its columns in syntax errors count from the start of what was sent. */
  readonly shift: number
  /** The caller's text as a prepared statement, as its header has it. */
  readonly prepared?: string | undefined
}

const IMMEDIATE = 'EXECUTE IMMEDIATE '
const PREPARED = 'common_handlers_statement'

/** The text to send: as it is, or with its values by EXECUTE IMMEDIATE or as a prepared statement. */
export function render(
  statement: string | SqlStatement,
  params: readonly TrinoParameter[] = [],
  way: 'immediate' | 'prepared' = 'immediate',
): RenderedStatement {
  const text = typeof statement === 'string' ? statement : statement.text
  const values = typeof statement === 'string' ? params : [...statement.values, ...params]
  if (!text.isWellFormed()) throw notExpressible('the statement holds half of a surrogate pair, which UTF-8 cannot carry')
  if (values.length === 0) return { text, shift: 0 }
  const using = ` USING ${values.map(literal).join(', ')}`
  if (way === 'immediate') return { text: `${IMMEDIATE}${literal(text)}${using}`, shift: IMMEDIATE.length + 1 }
  return { text: `EXECUTE ${PREPARED}${using}`, shift: 0, prepared: `${PREPARED}=${encodeURIComponent(text)}` }
}
