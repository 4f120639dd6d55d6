import type { Sink } from '@common-handlers/connections/streams'

/** A sink that knows what it has, by the `id` of each payload. */
export interface MemorySink extends Sink {
  readonly ids: number[]
  /** How many items each call brought. */
  readonly batches: number[]
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

export const range = (count: number, from = 0): number[] => Array.from({ length: count }, (_, index) => from + index)
export const sorted = (ids: readonly number[]): number[] => ids.toSorted((a, b) => a - b)
