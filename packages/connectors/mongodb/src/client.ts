import { networkSteps } from '@common-handlers/connections/check'
import {
  type CallOptions,
  type CheckAttempt,
  type CheckResult,
  type Closable,
  type CloseOptions,
  Lifecycle,
  onAbort,
  retry,
  runCheck,
  withDeadline,
} from '@common-handlers/core'
import type { MongodbConfig } from './config.ts'
import { BSON, type BsonChanges, type BsonDocument, type Db, MongoClient } from './driver.ts'
import { refusedWrite, toMongodbError } from './errors.ts'
import { type MongodbDocument, toBsonDocument, toDocument } from './values.ts'

/** What `find` of the server takes. */
export interface MongodbFind {
  readonly filter?: Readonly<Record<string, unknown>> | undefined
  readonly projection?: Readonly<Record<string, unknown>> | undefined
  readonly sort?: Readonly<Record<string, 1 | -1>> | undefined
  readonly limit?: number | undefined
}

/** Where to begin to read changes, and when to end. */
export interface MongodbChanges {
  /** The resume token of a change; what came after it. */
  readonly after?: BsonDocument | undefined
  readonly since?: Date | undefined
  readonly waitMs: number
}

/** What of the driver's cursors is used. */
interface Cursor {
  next(): Promise<BsonDocument | null>
  close(): Promise<void>
}

type Signal = Pick<CallOptions, 'signal'>

/** Integers of 64 bits stay whole, binary values and expressions what they are. */
const reading = { promoteBuffers: false, useBigInt64: true, bsonRegExp: true } as const

/** Of one answer to a change stream, which is asked for again until `waitMs` is over. */
const LONGEST_ANSWER_MS = 1_000
const DEFAULT_PORT = 27_017

/** A pool of connections to one database. */
export class MongodbClient implements Closable {
  readonly #config: MongodbConfig
  readonly #life: Lifecycle
  /** The one that is connected, or is being connected. */
  #client: MongoClient | undefined
  #connecting: Promise<MongoClient> | undefined

  constructor(config: MongodbConfig) {
    this.#config = config
    this.#life = new Lifecycle('MongodbClient', 'MONGODB', async () => this.#client?.close())
  }

  /** `mongodb://host:port/database`, without the account. */
  get url(): string {
    const { hosts, database } = this.#config
    return `mongodb://${hosts.join(',')}/${encodeURIComponent(database)}`
  }

  /** Finds a server and logs in; implied by the first call. The driver looks for one until `connectTimeoutMs` is over. */
  connect(options?: CallOptions): Promise<void> {
    return this.#call(options, 'connecting', async (signal) => {
      await this.#mapped(this.#connected(), signal)
    })
  }

  /**
   * A command of the database, as its documentation has it: `{ insert: 'orders', documents: [{ _id: 1n }] }`. It is not tried
   * again once it may have been sent. A write that was refused, in part too, is an error.
   */
  command(command: Readonly<Record<string, unknown>>, options?: CallOptions): Promise<MongodbDocument> {
    return this.#call(options, 'the command', (signal) =>
      this.#tried(signal, false, async () => {
        const database = this.#database(await this.#connected())
        const answer = await database.command(toBsonDocument(command), { ...reading, signal })
        const refused = refusedWrite(answer)
        if (refused !== undefined) throw refused
        return toDocument(answer)
      }),
    )
  }

  /** All documents that fit. */
  async find(collection: string, find: MongodbFind = {}, options: CallOptions = {}): Promise<MongodbDocument[]> {
    return withDeadline(options, { prefix: 'MONGODB', action: 'the query' }, ({ signal }) =>
      Array.fromAsync(this.stream(collection, find, { signal })),
    )
  }

  /** The documents that fit, one at a time, for results larger than memory. */
  async *stream(
    collection: string,
    find: MongodbFind = {},
    options: Signal = {},
  ): AsyncGenerator<MongodbDocument, void, undefined> {
    const filter = toBsonDocument(find.filter ?? {})
    for await (const document of this.read(collection, { ...find, filter }, options)) yield toDocument(document)
  }

  /** The result of an aggregation, one document at a time. */
  async *aggregate(
    collection: string,
    pipeline: readonly Readonly<Record<string, unknown>>[],
    options: Signal = {},
  ): AsyncGenerator<MongodbDocument, void, undefined> {
    const stages = pipeline.map(toBsonDocument)
    const documents = this.#documents(options, (client, signal) =>
      this.#database(client)
        .collection(collection)
        .aggregate(stages, { ...reading, batchSize: this.#config.batchSize, signal }),
    )
    for await (const document of documents) yield toDocument(document)
  }

  /** As {@link stream}, with filter and documents in the driver's own types. */
  read(
    collection: string,
    { filter = {}, projection, sort, limit }: MongodbFind,
    options: Signal = {},
  ): AsyncGenerator<BsonDocument, void, undefined> {
    return this.#documents(options, (client, signal) =>
      this.#database(client)
        .collection(collection)
        .find(filter as BsonDocument, {
          ...reading,
          batchSize: this.#config.batchSize,
          signal,
          ...(projection === undefined ? {} : { projection }),
          ...(sort === undefined ? {} : { sort }),
          ...(limit === undefined ? {} : { limit }),
        }),
    )
  }

  /** What happens to a collection, as the driver has it; ends when nothing new comes for `waitMs`. */
  changes(
    collection: string,
    { after, since, waitMs }: MongodbChanges,
    options: Signal = {},
  ): AsyncGenerator<BsonDocument, void, undefined> {
    return this.#documents(options, (client) => {
      const changes: BsonChanges = this.#database(client)
        .collection(collection)
        .watch([], {
          ...reading,
          batchSize: this.#config.batchSize,
          maxAwaitTimeMS: Math.min(waitMs, LONGEST_ANSWER_MS),
          fullDocument: 'updateLookup',
          ...(after === undefined ? {} : { startAfter: after }),
          ...(since === undefined
            ? {}
            : { startAtOperationTime: new BSON.Timestamp({ t: Math.floor(since.getTime() / 1000), i: 0 }) }),
        })
      let ended = false
      return {
        next: async () => {
          const end = performance.now() + waitMs
          while (!ended) {
            const change: BsonDocument | null = await changes.tryNext()
            // The collection is gone: nothing can follow.
            ended = change?.['operationType'] === 'invalidate'
            if (change !== null || performance.now() >= end) return change
          }
          return null
        },
        close: () => changes.close(),
      }
    })
  }

  /** Finds the host, reaches it, logs in, and says which server it is, what may be read there and how long an answer takes. */
  check(options: CallOptions = {}): Promise<CheckResult> {
    const { hosts, srv, tls, ca, connectTimeoutMs, database, username } = this.#config
    const { signal } = options
    const [only = '', ...others] = hosts
    const { hostname, port } = new URL(`tcp://${only}`)
    // Of several it is enough that one answers.
    const network =
      srv || others.length > 0
        ? []
        : networkSteps({
            host: hostname,
            port: port === '' ? DEFAULT_PORT : Number(port),
            ...(tls ? { tls: { ca } } : {}),
            signal: signal ?? new AbortController().signal,
            timeoutMs: connectTimeoutMs,
          })
    const steps: CheckAttempt[] = [
      ...network,
      {
        name: 'log in',
        run: () => this.connect(options).then(() => (username === undefined ? 'without a user' : `as ${username}`)),
      },
      { name: 'version', run: () => this.#version(options) },
      {
        name: 'rights',
        run: async () => {
          const command = { listCollections: 1, nameOnly: true, authorizedCollections: true, cursor: { batchSize: 1_000 } }
          const { cursor } = (await this.command(command, options)) as { cursor: { firstBatch: readonly MongodbDocument[] } }
          return `${cursor.firstBatch.length} collections of "${database}" may be read`
        },
      },
      {
        name: 'latency',
        run: async () => {
          const start = performance.now()
          await this.command({ ping: 1 }, options)
          return `${(performance.now() - start).toFixed(1)} ms`
        },
      },
    ]
    return runCheck(this.url, steps, signal)
  }

  close(options?: CloseOptions): Promise<void> {
    return this.#life.close(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #version(options: CallOptions): Promise<string> {
    const { version } = (await this.command({ buildInfo: 1 }, options)) as { readonly version: string }
    return `MongoDB ${version}`
  }

  #database(client: MongoClient): Db {
    return client.db(this.#config.database)
  }

  #call<T>(options: CallOptions | undefined, action: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return this.#life.run(options?.signal, (outer) =>
      withDeadline({ ...options, signal: outer }, { prefix: 'MONGODB', action }, ({ signal }) => work(signal)),
    )
  }

  #tried<T>(signal: AbortSignal, idempotent: boolean, work: () => Promise<T>): Promise<T> {
    const { attempts, retryBudgetMs } = this.#config
    return retry(() => this.#mapped(work(), signal), {
      signal,
      idempotent,
      policy: { attempts, budgetMs: retryBudgetMs },
    })
  }

  /** Ends with the signal, whatever the driver makes of it. */
  async #mapped<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
    const { promise, reject } = Promise.withResolvers<never>()
    const forget = onAbort(signal, () => reject(signal.reason as Error))
    try {
      return await Promise.race([work, promise])
    } catch (error) {
      signal.throwIfAborted()
      throw toMongodbError(error, this.url)
    } finally {
      forget()
    }
  }

  /** Connected once for all calls; what failed is tried again by the next one. */
  #connected(): Promise<MongoClient> {
    return (this.#connecting ??= this.#connect().catch((error: unknown) => {
      this.#connecting = undefined
      throw error
    }))
  }

  async #connect(): Promise<MongoClient> {
    const client = createClient(this.#config)
    this.#client = client
    try {
      await client.connect()
      // The driver logs in with the first command.
      await this.#database(client).command({ ping: 1 })
    } catch (error) {
      await client.close()
      throw error
    }
    return client
  }

  /** The next document; the cursor is let go of when that fails, and nobody waits for a server that may be gone. */
  async #next(cursor: Cursor, signal: AbortSignal): Promise<BsonDocument | null> {
    try {
      return await this.#mapped(cursor.next(), signal)
    } catch (error) {
      cursor.close().catch(() => undefined)
      throw error
    }
  }

  /** Begins to read, again where that fails, and gives one document after the other. */
  async *#documents(
    options: Signal,
    open: (client: MongoClient, signal: AbortSignal) => Cursor,
  ): AsyncGenerator<BsonDocument, void, undefined> {
    const leave = this.#life.hold()
    try {
      const signal = AbortSignal.any([this.#life.signal, ...(options.signal === undefined ? [] : [options.signal])])
      const { cursor, first } = await this.#tried(signal, true, async () => {
        const opened = open(await this.#connected(), signal)
        return { cursor: opened, first: await this.#next(opened, signal) }
      })
      let document = first
      try {
        while (document !== null) {
          yield document
          signal.throwIfAborted()
          document = await this.#next(cursor, signal)
        }
      } finally {
        // What has failed has closed its cursor.
        await cursor.close()
      }
    } finally {
      leave()
    }
  }
}

function createClient(config: MongodbConfig): MongoClient {
  const { hosts, srv, username, password, authSource, replicaSet, ca, connectTimeoutMs } = config
  return new MongoClient(`${srv ? 'mongodb+srv' : 'mongodb'}://${hosts.join(',')}/`, {
    ...(username === undefined || password === undefined ? {} : { auth: { username, password: password.expose() }, authSource }),
    ...(replicaSet === undefined ? {} : { replicaSet }),
    ...(ca === undefined ? {} : { ca }),
    directConnection: config.directConnection,
    tls: config.tls,
    readPreference: config.readPreference,
    maxPoolSize: config.maxConnections,
    connectTimeoutMS: connectTimeoutMs,
    serverSelectionTimeoutMS: connectTimeoutMs,
    socketTimeoutMS: config.answerTimeoutMs,
    retryReads: false,
    retryWrites: false,
    maxAdaptiveRetries: 0,
    appName: 'common-handlers',
  })
}
