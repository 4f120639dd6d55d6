/** How a database writes what {@link extraction} needs. */
export interface SqlDialect {
  /** A name as it is, whatever it holds. */
  quote(name: string): string
  /** Where a parameter stands; positions count from 1. */
  placeholder(position: number): string
  /** `(a, b) > (?, ?)` is understood; otherwise it is written as `a > ? OR a = ? AND b > ?`. */
  readonly rowValues: boolean
}

/** What is known of a table before it is read. */
export interface SqlTable {
  /** The columns of the primary key in its order; empty where there is none. */
  readonly key: readonly string[]
  /** True where the key is no column that `*` gives, such as SQLite's rowid. */
  readonly isKeyHidden?: boolean | undefined
  /** Where not every value can be read or compared as it is: all columns, in order. */
  readonly columns?: readonly SqlColumn[] | undefined
}

export interface SqlColumn {
  readonly name: string
  /** The expression that gives the value exactly. Default: the column. */
  readonly read?: string | undefined
  /** The expression that makes a value of the column's type of a parameter. Default: the parameter. */
  readonly compared?: ((placeholder: string) => string) | undefined
}

/** `"a ""b"""`, as the SQL standard has it. */
export const doubleQuoted = (name: string): string => `"${name.replaceAll('"', '""')}"`
