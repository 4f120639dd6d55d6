import { DataError } from '@common-handlers/core'
import type { ReceivedEvent } from './handler.ts'

/** An event as it was claimed. */
export interface PendingEvent extends ReceivedEvent {
  /** JSON as the producer wrote it. */
  readonly payload: string
  /** Attempts that failed before this one. */
  readonly failed: number
  readonly crashes: number
  /** Its time had passed when it was claimed. */
  readonly expired: boolean
}

class Pending implements PendingEvent {
  readonly id: bigint
  readonly type: string
  readonly payload: string
  readonly key: string | undefined
  readonly failed: number
  readonly crashes: number
  readonly expired: boolean
  readonly #headers: string | null
  readonly #createdAt: string

  constructor(row: readonly (string | null)[]) {
    const [id, type, payload, headers, key, failed, crashes, createdAt, expired] = row
    this.id = BigInt(id ?? 0)
    this.type = type ?? ''
    this.payload = payload ?? 'null'
    this.#headers = headers ?? null
    this.key = key ?? undefined
    // NULL: 0.
    this.failed = Number(failed ?? 0)
    this.crashes = Number(crashes ?? 0)
    this.#createdAt = createdAt ?? ''
    this.expired = expired === 't'
  }

  get attempt(): number {
    return this.failed + 1
  }

  get createdAt(): Date {
    return new Date(Number(this.#createdAt))
  }

  get headers(): Readonly<Record<string, string>> {
    return this.#headers === null ? {} : (JSON.parse(this.#headers) as Record<string, string>)
  }
}

export function readPending(row: readonly (string | null)[]): PendingEvent {
  return new Pending(row)
}

/** What `claim` says beside its events. */
export interface ClaimMeta {
  readonly claim: string | null
  readonly lowClaim: string
  readonly xmin: string
  readonly xmax: string
  readonly types: readonly string[]
  readonly priorities: readonly number[]
  readonly lows: readonly string[]
  readonly lane: number
  readonly laneKey: string | null
  readonly dueMs: number | null
  readonly suspects: boolean
  /** Another worker claimed some of what was found at the same time. */
  readonly outrun: boolean
}

const META = 9

export function readMeta(row: readonly (string | null)[] | undefined): ClaimMeta {
  const text = row?.[META]
  if (text === null || text === undefined)
    throw new DataError('the function claim answered without its first row', { code: 'OUTBOX_ANSWER_INVALID' })
  return JSON.parse(text) as ClaimMeta
}
