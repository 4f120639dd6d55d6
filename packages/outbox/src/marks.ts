import type { Literal } from './names.ts'
import type { ClaimMeta } from './pending.ts'

/** No look at everything that is ready takes more than this part of the time. */
const FULL_SCAN_SHARE = 0.1
const FULL_SCAN_MS = 250

/**
 * Where a worker's next scan begins, so that it does not walk over what is gone and not yet vacuumed. Events that are
 * committed behind a mark, because their transaction was long, are found by the full scans in between.
 */
export class Marks {
  #types: readonly string[] = []
  #priorities: readonly number[] = []
  #lows: readonly string[] = []
  #lane = 0
  #laneKey: string | null = null
  #lowClaim = '0'
  #next: { readonly low: bigint; readonly xmax: bigint } | undefined
  #fullAt = -Infinity
  #fullCost = 0

  /** Whether the next scan is to look at everything. */
  get full(): boolean {
    return performance.now() - this.#fullAt >= Math.max(FULL_SCAN_MS, this.#fullCost / FULL_SCAN_SHARE)
  }

  /** The next scan is to look at everything. */
  forget(): void {
    this.#fullAt = -Infinity
  }

  /** No claim below it is open. */
  get lowClaim(): string {
    return this.#lowClaim
  }

  /** What a claim is told of them, in the order of its parameters. */
  get parameters(): readonly Literal[] {
    return [this.#lowClaim, this.#types, this.#priorities, this.#lows, this.#lane, this.#laneKey]
  }

  note(meta: ClaimMeta, full: boolean, costMs: number): void {
    if (full) {
      this.#fullAt = performance.now()
      this.#fullCost = costMs
    }
    this.#types = meta.types
    this.#priorities = meta.priorities
    this.#lows = meta.lows
    this.#lane = meta.lane
    this.#laneKey = meta.laneKey
    // A claim that is not committed yet may have a smaller id than one that is: the mark follows when every transaction
    // that ran meanwhile is over, and no further than to the claims that they left.
    const low = BigInt(meta.lowClaim)
    if (this.#next === undefined) this.#next = { low, xmax: BigInt(meta.xmax) }
    else if (BigInt(meta.xmin) >= this.#next.xmax) {
      this.#lowClaim = String(low < this.#next.low ? low : this.#next.low)
      this.#next = undefined
    }
  }
}
