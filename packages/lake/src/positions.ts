/**
 * Which items a batch holds. Whole numbers are runs (`[["0","41"],["43","43"]]`), also behind a partition (`3/42`); any
 * other key stands as it is. A Kafka partition or a NATS stream is one run at best, a queue a list of message ids.
 */
export interface SourcePositions {
  readonly source: string
  /** What stands before the slash in the keys of these runs. */
  readonly partition?: string | undefined
  /** From and to, both included. */
  readonly runs: readonly (readonly [string, string])[]
  readonly keys: readonly string[]
}

/** What an item is known by. */
export interface Position {
  readonly source: string
  readonly key: string
}

interface Place {
  readonly source: string
  readonly partition: string | undefined
  /** Undefined for a key that is no number. */
  readonly number: bigint | undefined
}

// Without leading zeros: `7` and `07` are two keys.
const NUMBERED = /^(?:(.*)\/)?(0|[1-9]\d{0,17})$/s

function placeOf({ source, key }: Position): Place {
  const [, partition, digits] = NUMBERED.exec(key) ?? []
  return { source, partition, number: digits === undefined ? undefined : BigInt(digits) }
}

const groupOf = ({ source, partition }: { readonly source: string; readonly partition?: string | undefined }): string =>
  JSON.stringify([source, partition ?? null])

/** The positions of a batch. */
export function positionsOf(items: Iterable<Position>): SourcePositions[] {
  const groups = new Map<string, Place & { readonly numbers: bigint[]; readonly keys: Set<string> }>()
  for (const item of items) {
    const place = placeOf(item)
    const group = groupOf(place)
    const found = groups.get(group) ?? { ...place, numbers: [], keys: new Set<string>() }
    groups.set(group, found)
    if (place.number === undefined) found.keys.add(item.key)
    else found.numbers.push(place.number)
  }
  return [...groups.values()].map(({ source, partition, numbers, keys }) => {
    const runs: [bigint, bigint][] = []
    for (const number of numbers.toSorted((a, b) => (a < b ? -1 : a > b ? 1 : 0))) {
      const last = runs.at(-1)
      if (last !== undefined && number <= last[1] + 1n) last[1] = number
      else runs.push([number, number])
    }
    return {
      source,
      ...(partition === undefined ? {} : { partition }),
      runs: runs.map(([from, to]) => [from.toString(), to.toString()] as const),
      keys: [...keys],
    }
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
  readonly #groups = new Map<string, Known>()

  has(item: Position): boolean {
    const place = placeOf(item)
    const known = this.#groups.get(groupOf(place))
    if (known === undefined) return false
    const { number } = place
    if (number === undefined) return known.keys.has(item.key)
    const run = known.runs[indexAfter(known.runs, number) - 1]
    return run !== undefined && number <= run.to
  }

  add(positions: readonly SourcePositions[], at: number): void {
    for (const { runs, keys, ...place } of positions) {
      const group = groupOf(place)
      const known = this.#groups.get(group) ?? { runs: [], keys: new Map<string, number>() }
      this.#groups.set(group, known)
      for (const [from, to] of runs) addRun(known.runs, { from: BigInt(from), to: BigInt(to) })
      for (const key of keys) {
        known.keys.delete(key)
        known.keys.set(key, at)
      }
    }
  }

  /** Forgets keys written before a time. Runs grow together and stay. */
  forget(before: number): void {
    for (const { keys } of this.#groups.values()) {
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
