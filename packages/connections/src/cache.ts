import { type CloseOptions, type Logger, untilAborted } from '@common-handlers/core'
import type { Connection } from './contract.ts'
import { closedMeanwhile, released } from './errors.ts'

/** A connection lent out: `close()` gives it back, and the last one to do so leaves it idle. */
export type Leased<Opened extends Connection> = Opened & AsyncDisposable

interface Entry {
  readonly protocol: string
  readonly opened: Promise<Connection>
  readonly abort: AbortController
  isOpen: boolean
  users: number
  idle: NodeJS.Timeout | undefined
}

/** Opens a connection; the signal is aborted when nobody waits for it any more. */
export type Open = (signal: AbortSignal) => Promise<Connection>

/**
 * Connections by key: opened once however many ask at the same time, counted, closed when they have been idle for a while.
 * A connection whose opening fails is not kept.
 */
export class ConnectionCache {
  readonly #idleMs: number
  readonly #logger: Logger
  readonly #entries = new Map<string, Entry>()
  /** Those that are out of the map and not yet closed. */
  readonly #closing = new Set<Promise<void>>()
  /** Lent out without being kept (`reuse: false`). */
  readonly #single = new Set<Entry>()

  constructor(idleMs: number, logger: Logger) {
    this.#idleMs = idleMs
    this.#logger = logger
  }

  /** Open connections, the idle ones included. */
  get size(): number {
    return this.#entries.size + this.#single.size
  }

  /** Without a key the connection is the caller's alone and ends when it is given back. */
  async lease(protocol: string, key: string | undefined, open: Open, signal?: AbortSignal): Promise<Leased<Connection>> {
    signal?.throwIfAborted()
    const known = key === undefined ? undefined : this.#entries.get(key)
    const entry = known ?? this.#start(protocol, key, open)
    clearTimeout(entry.idle)
    entry.users += 1
    try {
      return this.#handle(await untilAborted(entry.opened, signal), entry, key)
    } catch (error) {
      // Whoever gave up does not wait for what it leaves behind.
      this.#leave(entry, key).catch(() => undefined)
      throw error
    }
  }

  /** Closes every connection, those being opened included, and waits for that. Calls under way end as each connection's `close` says. */
  async closeAll(options?: CloseOptions): Promise<void> {
    const entries = [...this.#entries.values(), ...this.#single]
    this.#entries.clear()
    this.#single.clear()
    for (const entry of entries) void this.#end(entry, options)
    const results = await Promise.allSettled(this.#closing)
    const failed = results.filter((result) => result.status === 'rejected').map((result) => result.reason as unknown)
    if (failed.length === 1) throw failed[0]
    if (failed.length > 1) throw new AggregateError(failed, `${failed.length} connections could not be closed`)
  }

  #start(protocol: string, key: string | undefined, open: Open): Entry {
    const abort = new AbortController()
    const entry: Entry = { protocol, opened: open(abort.signal), abort, isOpen: false, users: 0, idle: undefined }
    if (key === undefined) this.#single.add(entry)
    else this.#entries.set(key, entry)
    entry.opened.then(
      () => (entry.isOpen = true),
      () => this.#forget(entry, key),
    )
    return entry
  }

  #forget(entry: Entry, key: string | undefined): void {
    this.#single.delete(entry)
    if (key !== undefined && this.#entries.get(key) === entry) this.#entries.delete(key)
  }

  /** One user less. The last one leaves the connection idle, or ends it where it is not kept or not open yet. */
  async #leave(entry: Entry, key: string | undefined): Promise<void> {
    entry.users -= 1
    if (entry.users > 0) return
    const isKept = key !== undefined && this.#entries.get(key) === entry
    if (!isKept && !this.#single.has(entry)) return
    const evict = (): Promise<void> => {
      this.#forget(entry, key)
      return this.#end(entry)
    }
    if (!isKept || !entry.isOpen) return evict()
    entry.idle = setTimeout(() => {
      evict().catch(() => undefined)
    }, this.#idleMs)
    entry.idle.unref()
  }

  /** Begins to close; an error is told to whoever waits for it, and to the log. */
  #end(entry: Entry, options?: CloseOptions): Promise<void> {
    clearTimeout(entry.idle)
    entry.abort.abort(closedMeanwhile(entry.protocol))
    const closing = entry.opened.then(
      (connection) => connection.close(options),
      () => undefined,
    )
    this.#closing.add(closing)
    closing.then(
      () => this.#closing.delete(closing),
      (error: unknown) => {
        this.#closing.delete(closing)
        this.#logger.warn({ err: error, protocol: entry.protocol }, 'a connection could not be closed')
      },
    )
    return closing
  }

  /** The connection as one user sees it: all of it, with a `close` that gives it back. */
  #handle(connection: Connection, entry: Entry, key: string | undefined): Leased<Connection> {
    let returned: Promise<void> | undefined
    const close = (): Promise<void> => (returned ??= this.#leave(entry, key))
    const methods = new Map<PropertyKey, unknown>()
    // The proxy's own target is empty: what a frozen connection has could not be replaced otherwise.
    const shadow = Object.create(Object.getPrototypeOf(connection) as object | null) as Leased<Connection>
    return new Proxy(shadow, {
      get: (_shadow, name) => {
        if (name === 'close' || name === Symbol.asyncDispose) return close
        // A promise asks for `then` before it hands a value over.
        if (returned !== undefined && name !== 'then') throw released(entry.protocol)
        // Private members want the object itself, not its handle.
        const value: unknown = Reflect.get(connection, name, connection)
        if (typeof value !== 'function') return value
        if (!methods.has(name)) methods.set(name, value.bind(connection))
        return methods.get(name)
      },
      set: (_shadow, name, value) => Reflect.set(connection, name, value, connection),
      has: (_shadow, name) => Reflect.has(connection, name),
    })
  }
}
