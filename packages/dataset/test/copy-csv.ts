import type { RowBlock } from '@common-handlers/dataset'

/** A field as PostgreSQL's COPY writes it (src/backend/commands/copyto.c, CopyAttributeOutCSV), with NULL as `\N`. */
function copyField(value: string | null, single: boolean): string {
  if (value === null) return '\\N'
  const quote = /[",\n\r]/.test(value) || value === '\\N' || (single && value === '\\.')
  return quote ? `"${value.replaceAll('"', '""')}"` : value
}

export const copyRow = (values: readonly (string | null)[]): string =>
  `${values.map((value) => copyField(value, values.length === 1)).join(',')}\n`

/** Rows as a block, as the extractor gets them from the server. */
export function copyBlock(rows: readonly (readonly (string | null)[])[]): RowBlock {
  const encoded = rows.map((row) => Buffer.from(copyRow(row)))
  let end = 0
  return { bytes: Buffer.concat(encoded), rowEnds: Uint32Array.from(encoded, (row) => (end += row.length)), rows: rows.length }
}

/** Bytes cut into chunks at the given places. */
export function* cut(bytes: Buffer, places: readonly number[]): Generator<Buffer> {
  let from = 0
  for (const place of places.toSorted((a, b) => a - b)) {
    const to = Math.min(place, bytes.length)
    if (to > from) yield bytes.subarray(from, to)
    from = Math.max(from, to)
  }
  yield bytes.subarray(from)
}
