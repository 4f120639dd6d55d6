import { randomUUID } from 'node:crypto'
import {
  type CallOptions,
  type CheckResult,
  type Closable,
  type CloseOptions,
  HandlerError,
  Lifecycle,
  type Logger,
  onAbort,
  runCheck,
  silentLogger,
  withDeadline,
} from '@common-handlers/core'
import { type LakeConfig, type LakeConfigInput, parseConfig } from './config.ts'
import { columnsDiffer, dataMissing, keyMissing, tooBusy } from './errors.ts'
import { BATCH_VERSION, type Batch, type BatchManifest, manifestOf, manifestOfFile, parseManifest } from './manifest.ts'
import { encodeBatch, type LakeItem } from './parquet.ts'
import { Covered, positionsOf } from './positions.ts'

/** What a lake needs of a store; `LocalFolderStore` of `@common-handlers/storage` and `S3Handler` fit. */
export interface LakeStore {
  readonly url: string
  /** Rejects with a NotFoundError where nothing is. */
  getBytes(key: string, options?: CallOptions): Promise<{ readonly bytes: Buffer }>
  list(prefix: string, options?: CallOptions): AsyncIterable<{ readonly key: string }>
  /** Writes whole, and only where nothing is: of many callers at once, one writes. */
  putIfAbsent(key: string, body: Uint8Array | string, options?: CallOptions): Promise<{ readonly written: boolean }>
}

export interface LakeOptions extends LakeConfigInput {
  readonly store: LakeStore
  /** Silent by default. */
  readonly logger?: Logger | undefined
}

/** What became of a write. */
export interface Committed {
  /** The batch; absent when all items were there already. */
  readonly batch?: BatchManifest | undefined
  /** Items written now. */
  readonly rows: number
  /** Items that an earlier batch holds, or that stood twice in this one. */
  readonly duplicates: number
}

/** How often other writers may be first. */
const MAX_RACES = 100
const MANIFESTS_AT_ONCE = 16
const DIGITS = 12

/**
 * A table of Parquet files, one a batch: `data/000000000001.parquet` and so on. A batch is committed by writing its file
 * under the next free number, which one writer alone can; its manifest follows. A file is never changed, and none is
 * there that is not committed.
 */
export class Lake implements Closable {
  readonly #store: LakeStore
  readonly #config: LakeConfig
  readonly #logger: Logger
  readonly #life: Lifecycle
  readonly #covered = new Covered()
  /** The number that the next batch gets, as far as is known. */
  #next = 1
  #isOpen = false
  /** Writes of this object, one after the other. */
  #last: Promise<unknown> = Promise.resolve()

  /** @throws ConfigError `LAKE_CONFIG_INVALID` */
  constructor(options: LakeOptions) {
    const { store, logger = silentLogger, ...config } = options
    this.#store = store
    this.#logger = logger
    this.#config = parseConfig(config)
    this.#life = new Lifecycle('Lake', 'LAKE', () => Promise.resolve())
  }

  /** The files of all committed batches and no others, for `read_parquet` of DuckDB; without `*.parquet` a location for Trino. */
  get glob(): string {
    return `${this.#store.url}/${this.#config.prefix}data/*.parquet`
  }

  /**
   * Writes one batch, whole or not at all, without the items that are there already. Items are told apart by `source` and
   * `key`. When it rejects, the same items may be written again, also if it is not known whether they were written.
   * @throws DataError `LAKE_VALUE_UNFIT`, `LAKE_KEY_MISSING`, `LAKE_DATA_MISSING`; ConflictError `LAKE_COLUMNS_DIFFER`
   */
  write(items: readonly LakeItem[], options?: CallOptions): Promise<Committed> {
    return this.#call(options, 'writing a batch', (signal) => {
      const work = this.#last.then(() => this.#commit(items, signal))
      this.#last = work.catch(() => undefined)
      return work
    })
  }

  /** Reads which batches there are, and finishes the last one where its writer was killed; `finished` says how many that were. */
  recover(options?: CallOptions): Promise<{ readonly batches: number; readonly finished: number }> {
    return this.#call(options, 'recovering', (signal) => {
      const work = this.#last.then(async () => {
        const finished = await this.#open(signal)
        return { batches: this.#next - 1, finished }
      })
      this.#last = work.catch(() => undefined)
      return work
    })
  }

  /** The manifests of committed batches in order, from a number on. */
  async *listCommitted(
    options: Pick<CallOptions, 'signal'> & { readonly from?: number | undefined } = {},
  ): AsyncGenerator<BatchManifest, void> {
    const leave = this.#life.hold()
    // Nobody may come back to a list that was left standing.
    const forget = onAbort(this.#life.signal, leave)
    const signal = AbortSignal.any([this.#life.signal, ...(options.signal === undefined ? [] : [options.signal])])
    try {
      for (const number of await this.#numbers(signal)) {
        signal.throwIfAborted()
        if (number >= (options.from ?? 1)) yield await this.#read(number, signal)
      }
    } finally {
      forget()
      leave()
    }
  }

  /** One manifest. @throws NotFoundError of the store */
  readManifest(number: number, options?: CallOptions): Promise<BatchManifest> {
    return this.#call(options, 'reading a manifest', (signal) => this.#read(number, signal))
  }

  /** Reads from the store; writes nothing. */
  check(options?: CallOptions): Promise<CheckResult> {
    return runCheck(
      this.glob,
      [
        {
          name: 'list the batches',
          run: () => this.#call(options, 'listing', async (signal) => `${(await this.#numbers(signal)).length} batches`),
        },
      ],
      options?.signal,
    )
  }

  close(options?: CloseOptions): Promise<void> {
    return this.#life.close(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #call<T>(options: CallOptions | undefined, action: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return this.#life.run(options?.signal, (signal) =>
      withDeadline({ ...options, signal }, { prefix: 'LAKE', action }, (deadline) => work(deadline.signal)),
    )
  }

  async #commit(items: readonly LakeItem[], signal: AbortSignal): Promise<Committed> {
    const keyed = items.map(withKey)
    if (!this.#isOpen) await this.#open(signal)
    for (let races = 0; races < MAX_RACES; races++) {
      const fresh = this.#fresh(keyed)
      const result = { rows: fresh.length, duplicates: items.length - fresh.length }
      if (fresh.length === 0) return result
      const batch: Batch = {
        version: BATCH_VERSION,
        number: this.#next,
        id: randomUUID(),
        committedAt: new Date().toISOString(),
        columns: Object.entries(this.#config.columns),
        positions: positionsOf(fresh),
      }
      const file = encodeBatch(fresh, this.#config, batch)
      const key = this.#fileKey(batch.number)
      const { written } = await this.#store.putIfAbsent(key, file, { signal })
      // From here on it is committed, or somebody else's batch is.
      const found = written ? manifestOf(batch, key, fresh.length, file) : await this.#finish(batch.number, signal)
      if (written) await this.#writeManifest(found, signal)
      this.#take(found)
      if (found.id === batch.id) return { batch: found, ...result }
      this.#logger.debug({ number: batch.number }, 'another writer was first')
    }
    throw tooBusy(MAX_RACES)
  }

  /** Those that no batch holds yet, each once. */
  #fresh<Item extends LakeItem & { readonly key: string }>(items: readonly Item[]): Item[] {
    const seen = new Set<string>()
    return items.filter((item) => {
      if (item.first === true) return true
      const identity = `${item.source}\n${item.key}`
      if (seen.has(identity) || this.#covered.has(item)) return false
      seen.add(identity)
      return true
    })
  }

  /** Learns what is there. Gives how many batches were finished for another writer. */
  async #open(signal: AbortSignal): Promise<number> {
    const numbers = await this.#numbers(signal)
    const newest = numbers.at(-1) ?? 0
    if (newest >= this.#next) {
      const known = await this.#recent(
        numbers.filter((number) => number >= this.#next),
        signal,
      )
      for (const manifest of known.toReversed()) this.#take(manifest)
      this.#next = newest + 1
    }
    let finished = 0
    for (; ; finished++) {
      const manifest = await this.#finish(this.#next, signal).catch(notFound)
      if (manifest === undefined) break
      this.#take(manifest)
    }
    this.#isOpen = true
    return finished
  }

  /** Manifests from the newest one back, as far as is to be remembered. */
  async #recent(numbers: readonly number[], signal: AbortSignal): Promise<BatchManifest[]> {
    const found: BatchManifest[] = []
    for (let end = numbers.length; end > 0; end -= MANIFESTS_AT_ONCE) {
      const some = numbers.slice(Math.max(0, end - MANIFESTS_AT_ONCE), end).toReversed()
      found.push(...(await Promise.all(some.map((number) => this.#read(number, signal)))))
      const [newest, oldest] = [found[0], found.at(-1)]
      if (newest !== undefined && oldest !== undefined && timeOf(oldest) < timeOf(newest) - this.#config.rememberMs) break
    }
    return found
  }

  /** The batch of a number, its manifest written where that is missing. @throws NotFoundError where there is no such batch */
  async #finish(number: number, signal: AbortSignal): Promise<BatchManifest> {
    const manifest = await this.#read(number, signal).catch(notFound)
    if (manifest !== undefined) return manifest
    const key = this.#fileKey(number)
    const { bytes } = await this.#store.getBytes(key, { signal })
    const found = manifestOfFile(key, bytes)
    await this.#writeManifest(found, signal)
    this.#logger.info({ number }, 'finished the batch of another writer')
    return found
  }

  async #writeManifest(manifest: BatchManifest, signal: AbortSignal): Promise<void> {
    // One that is there already says the same: it was made of the same file.
    await this.#store.putIfAbsent(this.#manifestKey(manifest.number), `${JSON.stringify(manifest, null, 2)}\n`, { signal })
  }

  #take(manifest: BatchManifest): void {
    const [ours, theirs] = [Object.entries(this.#config.columns), manifest.columns].map((columns) =>
      columns.map(([name, type]) => `${name} ${type}`).join(', '),
    )
    if (ours !== theirs) throw columnsDiffer(manifest.file, ours || 'none', theirs || 'none')
    this.#covered.add(manifest.positions, timeOf(manifest))
    this.#covered.forget(timeOf(manifest) - this.#config.rememberMs)
    this.#next = Math.max(this.#next, manifest.number + 1)
  }

  async #read(number: number, signal: AbortSignal | undefined): Promise<BatchManifest> {
    const key = this.#manifestKey(number)
    const { bytes } = await this.#store.getBytes(key, { signal })
    return parseManifest(key, bytes)
  }

  async #numbers(signal: AbortSignal | undefined): Promise<number[]> {
    const prefix = `${this.#config.prefix}_manifests/`
    const numbers: number[] = []
    for await (const { key } of this.#store.list(prefix, { signal })) {
      const [, digits] = /^(\d{12})\.json$/.exec(key.slice(prefix.length)) ?? []
      if (digits !== undefined) numbers.push(Number(digits))
    }
    return numbers
  }

  #fileKey(number: number): string {
    return `${this.#config.prefix}data/${String(number).padStart(DIGITS, '0')}.parquet`
  }

  #manifestKey(number: number): string {
    return `${this.#config.prefix}_manifests/${String(number).padStart(DIGITS, '0')}.json`
  }
}

const timeOf = ({ committedAt }: BatchManifest): number => Date.parse(committedAt)

/** @throws DataError `LAKE_KEY_MISSING`, `LAKE_DATA_MISSING` */
function withKey<Item extends LakeItem>(item: Item): Item & { readonly key: string } {
  const { source, key, data, location } = item
  if (key === undefined || key === '') throw keyMissing(source)
  if (data === undefined) throw dataMissing(source, key, location)
  return { ...item, key }
}

function notFound(error: unknown): undefined {
  if (HandlerError.is(error) && error.outcome === 'not-found') return undefined
  throw error
}
