/** `"a ""quoted"" name"`: the same in PostgreSQL, Trino and DuckDB. */
export function doubleQuote(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}
