import { duplicateColumn } from './errors.ts'

/** Makes rows by column name of lists of values. @throws DataError where a name stands twice: one of the values would be lost */
export function rowReader<Value>(
  prefix: string,
  names: readonly string[],
): (values: readonly (Value | null | undefined)[]) => Record<string, Value | null> {
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice !== undefined) throw duplicateColumn(prefix, twice)
  return (values) => Object.fromEntries(names.map((name, index) => [name, values[index] ?? null]))
}
