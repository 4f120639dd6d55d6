import { zstdDecompressSync } from 'node:zlib'
import { parquetReadObjects } from 'hyparquet'

interface ItemLike {
  readonly source: string
  readonly key: string
  readonly data?: unknown
}

/** Where a test has messages written: it drops what it has, and knows each by the `id` of its payload. */
export interface MemorySink {
  readonly ids: readonly number[]
  /** How many items each call brought. */
  readonly batches: readonly number[]
  write(items: readonly ItemLike[]): Promise<void>
  /** Resolves when there are so many ids. */
  until(count: number): Promise<void>
}

export function memorySink(): MemorySink {
  const ids: number[] = []
  const batches: number[] = []
  const seen = new Set<string>()
  let wake = (): void => undefined
  return {
    ids,
    batches,
    write: async (items) => {
      batches.push(items.length)
      for (const { source, key, data } of items) {
        if (seen.has(`${source} ${key}`)) continue
        seen.add(`${source} ${key}`)
        ids.push((data as { id: number }).id)
      }
      wake()
    },
    until: async (count) => {
      while (ids.length < count) await new Promise<void>((resolve) => (wake = resolve))
    },
  }
}

/** The values of one integer column in all files that a lake has committed, from the smallest to the largest. */
export async function committedNumbers(
  lake: { listCommitted(): AsyncIterable<{ readonly file: string }> },
  store: { getBytes(key: string): Promise<{ readonly bytes: Uint8Array }> },
  column: string,
): Promise<number[]> {
  const found: number[] = []
  for await (const { file } of lake.listCommitted()) {
    const { bytes } = await store.getBytes(file)
    const compressors = { ZSTD: (page: Uint8Array): Uint8Array => zstdDecompressSync(page) }
    const rows = await parquetReadObjects({ file: new Uint8Array(bytes).buffer, columns: [column], compressors })
    found.push(...rows.map((row) => Number(row[column])))
  }
  return found.toSorted((a, b) => a - b)
}
