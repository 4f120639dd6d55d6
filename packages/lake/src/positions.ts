/**
 * Which messages a batch holds, by source: whole numbers as runs (`[["0","41"],["43","43"]]`), any other key as it is.
 * A Kafka partition or a NATS stream is one run at best, a queue a list of message ids.
 */
export interface SourcePositions {
  readonly source: string
  /** From and to, both included. */
  readonly runs: readonly (readonly [string, string])[]
  readonly keys: readonly string[]
}

/** What an item is known by. */
export interface Position {
  readonly source: string
  readonly key: string
}

// Of at most 18 digits: what `0` and `007` would both be is a number to nobody.
const INTEGER = /^(0|[1-9]\d{0,17})$/

/** The positions of a batch. */
export function positionsOf(items: Iterable<Position>): SourcePositions[] {
  const bySource = new Map<string, { numbers: bigint[]; keys: string[] }>()
  for (const { source, key } of items) {
    const found = bySource.get(source) ?? { numbers: [], keys: [] }
    bySource.set(source, found)
    if (INTEGER.test(key)) found.numbers.push(BigInt(key))
    else found.keys.push(key)
  }
  return [...bySource].map(([source, { numbers, keys }]) => {
    const runs: [bigint, bigint][] = []
    for (const number of numbers.toSorted((a, b) => (a < b ? -1 : a > b ? 1 : 0))) {
      const last = runs.at(-1)
      if (last !== undefined && number <= last[1] + 1n) last[1] = number
      else runs.push([number, number])
    }
    return { source, runs: runs.map(([from, to]) => [from.toString(), to.toString()] as const), keys }
  })
}

interface Run {
  from: bigint
  to: bigint
}

interface Known {
  /** In order, apart by at least one. */
  readonly runs: Run[]
  /** When each was written last; the oldest first. */
  readonly keys: Map<string, number>
}

/** Everything that was written lately. */
export class Covered {
  readonly #sources = new Map<string, Known>()

  has({ source, key }: Position): boolean {
    const known = this.#sources.get(source)
    if (known === undefined) return false
    if (!INTEGER.test(key)) return known.keys.has(key)
    const number = BigInt(key)
    const run = known.runs[indexAfter(known.runs, number) - 1]
    return run !== undefined && number <= run.to
  }

  add(positions: readonly SourcePositions[], at: number): void {
    for (const { source, runs, keys } of positions) {
      const known = this.#sources.get(source) ?? { runs: [], keys: new Map<string, number>() }
      this.#sources.set(source, known)
      for (const [from, to] of runs) addRun(known.runs, { from: BigInt(from), to: BigInt(to) })
      for (const key of keys) {
        known.keys.delete(key)
        known.keys.set(key, at)
      }
    }
  }

  /** Forgets keys written before a time. Runs grow together and stay. */
  forget(before: number): void {
    for (const { keys } of this.#sources.values()) {
      for (const [key, at] of keys) {
        if (at >= before) break
        keys.delete(key)
      }
    }
  }
}

/** The index of the first run that begins after a number. */
function indexAfter(runs: readonly Run[], number: bigint): number {
  let [low, high] = [0, runs.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if ((runs[middle]?.from ?? 0n) <= number) low = middle + 1
    else high = middle
  }
  return low
}

/** Puts a run in its place, as one with those that it touches. */
function addRun(runs: Run[], added: Run): void {
  let first = indexAfter(runs, added.from)
  const before = runs[first - 1]
  if (before !== undefined && before.to >= added.from - 1n) first -= 1
  let last = first
  let { from, to } = added
  for (let run = runs[last]; run !== undefined && run.from <= to + 1n; run = runs[++last]) {
    if (run.from < from) from = run.from
    if (run.to > to) to = run.to
  }
  runs.splice(first, last - first, { from, to })
}
