import { inspect } from 'node:util'
import { HandlerError, type Logger, REDACTED, untilAborted } from '@common-handlers/core'
import type { CacheConfig } from './config.ts'
import type { SecretData } from './secret-data.ts'
import { parsePath } from './secret-path.ts'

/** An older secret is given out for so long before the server that failed is asked for it again. */
const ASK_AGAIN_MS = 5_000

/** What was read, out of sight of inspect and JSON. Those who get it get a copy each. */
class Entry {
  readonly names: ReadonlySet<string>
  /** By a clock that nobody sets. */
  readonly readAt = performance.now()
  /** While the server fails: until when it is not asked again. */
  askAt = 0
  readonly #data: SecretData

  constructor(names: ReadonlySet<string>, data: SecretData) {
    this.names = names
    this.#data = structuredClone(data)
  }

  open(): SecretData {
    return structuredClone(this.#data)
  }

  [inspect.custom](): string {
    return REDACTED
  }
}

/** Secrets that were read not long ago. Many reads of one secret at once are one request. */
export class SecretCache {
  readonly #config: CacheConfig
  readonly #logger: Logger
  /** The least recently used first. */
  readonly #entries = new Map<string, Entry>()
  readonly #reading = new Map<string, { readonly names: ReadonlySet<string>; readonly data: Promise<SecretData> }>()

  constructor(config: CacheConfig, logger: Logger) {
    this.#config = config
    this.#logger = logger
  }

  /** `read` is shared by all who ask for the same meanwhile, so it knows the signal of none of them. */
  async get(
    path: string,
    version: number | undefined,
    read: () => Promise<SecretData>,
    signal: AbortSignal,
  ): Promise<SecretData> {
    const key = `${version ?? ''} ${parsePath(path).join('/')}`
    const entry = this.#entries.get(key)
    const age = entry === undefined ? Infinity : performance.now() - entry.readAt
    if (entry !== undefined && (age < this.#config.ttlMs || performance.now() < entry.askAt)) {
      this.#entries.delete(key)
      this.#entries.set(key, entry)
      return entry.open()
    }
    try {
      return structuredClone(await untilAborted(this.#read(key, path, read), signal))
    } catch (error) {
      const staleAt = entry === undefined ? 0 : entry.readAt + this.#config.ttlMs + this.#config.staleIfErrorMs
      if (entry === undefined || performance.now() >= staleAt || !isOutage(error)) throw error
      // It may have been forgotten while the server was asked.
      if (this.#entries.get(key) !== entry) throw error
      entry.askAt = Math.min(staleAt, performance.now() + ASK_AGAIN_MS)
      this.#logger.warn({ path, err: error, ageMs: age }, 'vault secret could not be read; an older one is given out')
      return entry.open()
    }
  }

  /** Forgets a secret, by whichever of its names: `secret/app`, `secret/data/app`. */
  forget(path: string): void {
    const names = namesOf(path)
    const isNamed = (other: { readonly names: ReadonlySet<string> }): boolean => [...names].some((name) => other.names.has(name))
    for (const [key, entry] of this.#entries) if (isNamed(entry)) this.#entries.delete(key)
    // What was asked for before the change may be answered with what was there before it.
    for (const [key, reading] of this.#reading) if (isNamed(reading)) this.#reading.delete(key)
  }

  #read(key: string, path: string, read: () => Promise<SecretData>): Promise<SecretData> {
    const running = this.#reading.get(key)
    if (running !== undefined) return running.data
    const reading = { names: namesOf(path), data: read() }
    this.#reading.set(key, reading)
    const isWanted = (): boolean => this.#reading.get(key) === reading
    reading.data
      .then(
        (data) => {
          if (isWanted()) this.#keep(key, new Entry(reading.names, data))
        },
        (error: unknown) => {
          // Told to those who wait. A refusal or a deletion is an answer too.
          if (isWanted() && !isOutage(error)) this.#entries.delete(key)
        },
      )
      .finally(() => {
        if (isWanted()) this.#reading.delete(key)
      })
    return reading.data
  }

  #keep(key: string, entry: Entry): void {
    this.#entries.delete(key)
    this.#entries.set(key, entry)
    const [oldest] = this.#entries.keys()
    if (this.#entries.size > this.#config.maxEntries && oldest !== undefined) this.#entries.delete(oldest)
  }
}

/** Failures that say nothing about the secret. */
function isOutage(error: unknown): boolean {
  return HandlerError.is(error) && error.retry !== 'never'
}

/** The words that the API of a version 2 mount puts between the mount and the secret. */
const API_WORDS = new Set(['data', 'metadata', 'delete', 'undelete', 'destroy'])

/** A path as it is, and without each word that may be one of the API. It costs a read to forget too much, no more. */
function namesOf(path: string): Set<string> {
  const segments = parsePath(path)
  const without = segments.flatMap((word, index) => (API_WORDS.has(word) ? [segments.toSpliced(index, 1).join('/')] : []))
  return new Set([segments.join('/'), ...without])
}
