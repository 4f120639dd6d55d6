import { networkSteps } from '@common-handlers/connections/check'
import {
  type BatchLimits,
  type Consumed,
  consumeBatches,
  type Delivery,
  type PayloadFormat,
  type Sink,
  type StreamItem,
  type Subscription,
} from '@common-handlers/connections/streams'
import {
  type CallOptions,
  type CheckResult,
  type Closable,
  type CloseOptions,
  HandlerError,
  Lifecycle,
  type Logger,
  onAbort,
  retry,
  runCheck,
  silentLogger,
  withDeadline,
  untilAborted,
} from '@common-handlers/core'
import {
  type BaseOptions,
  type CallbackWithPromise,
  type ClusterMetadata,
  type ClusterTopicMetadata,
  type ConsumeBaseOptions,
  type ConsumerOptions,
  Consumer,
  FetchIsolationLevels,
  type FetchOptions,
  type Message,
  type MessagesStream,
  type RecordsBatch,
} from '@platformatic/kafka'
import { CONTROL, passOverAborted } from './aborted.ts'
import type { KafkaConfig } from './config.ts'
import { ended, toKafkaError, topicMadeAnew, topicNotFound, watermarkInvalid } from './errors.ts'
import { parseWatermark, sourceOf, toItem, watermarkOf } from './messages.ts'

/** The messages that a topic holds now: partition after partition, each in its order. No group is joined and no offset committed. */
export interface KafkaQuery {
  readonly topic: string
  /** What payloads are. One that is something else is given as its bytes. Default `json`. */
  readonly format?: PayloadFormat | undefined
  /** At most so many. */
  readonly limit?: number | undefined
  /** That of the last item of an earlier read: only what comes after it is read. */
  readonly watermark?: string | undefined
}

/** What {@link KafkaClient.consume} reads. */
export interface KafkaConsumeQuery {
  readonly topics: readonly string[]
  /** The consumer group, whose offsets are committed. */
  readonly group: string
  /** Where a partition begins of which the group has no offset. Default `earliest`. */
  readonly from?: 'earliest' | 'latest' | undefined
  /** What payloads are. One that is something else is given to the sink as its bytes. Default `json`. */
  readonly format?: PayloadFormat | undefined
}

const FETCH_BYTES = 8 * 1024 * 1024
const FETCH_MS = 500
/** Answers without a message before the end of a partition is taken for reached. */
const EMPTY_FETCHES = 3
const CLOSE_MS = 5_000

/** Topics of a Kafka cluster. */
export class KafkaClient implements Closable {
  readonly #config: KafkaConfig
  readonly #logger: Logger
  readonly #life: Lifecycle
  /** Ends every `consume` when the client is closed. */
  readonly #stopping = new AbortController()
  /** For everything but `consume`: it joins no group. */
  #reader: Consumer | undefined

  constructor(config: KafkaConfig, logger: Logger = silentLogger) {
    this.#config = config
    this.#logger = logger
    this.#life = new Lifecycle('KafkaClient', 'KAFKA', async () => {
      if (this.#reader !== undefined) await closeQuietly(this.#reader)
    })
  }

  /** Where it is, without a login. */
  get brokers(): string {
    return this.#config.brokers.join(',')
  }

  /** Connects; implied by the first call. */
  connect(options?: CallOptions): Promise<void> {
    return this.#call(options, 'connecting', async (signal) => {
      await this.#metadata([], signal)
    })
  }

  /**
   * Reads what a topic holds now.
   * @throws NotFoundError `KAFKA_TOPIC_NOT_FOUND`; ConfigError `KAFKA_WATERMARK_INVALID`
   */
  async *read(query: KafkaQuery, options: Pick<CallOptions, 'signal'> = {}): AsyncGenerator<StreamItem, void, undefined> {
    const { topic, format = 'json', limit = Infinity, watermark } = query
    const leave = this.#life.hold()
    // Nobody may come back to a reading that was left standing.
    const forget = onAbort(this.#life.signal, leave)
    const signal = AbortSignal.any([this.#life.signal, ...(options.signal === undefined ? [] : [options.signal])])
    try {
      const topicId = (await this.#topic(topic, signal, true)).id
      const source = sourceOf(topic, topicId)
      const next = watermark === undefined ? new Map<number, bigint>() : parseWatermark(watermark, source)
      if (next === undefined) throw watermarkInvalid()
      const [begins, ends] = await this.#mapped(signal, [
        this.#consumer().listOffsets({ topics: [topic], timestamp: -2n }),
        this.#consumer().listOffsets({ topics: [topic], timestamp: -1n }),
      ])
      let position = 0
      for (const [partition, end] of (ends?.get(topic) ?? []).entries()) {
        const oldest = begins?.get(topic)?.[partition] ?? 0n
        const from = next.get(partition) ?? 0n
        for await (const message of this.#partition({ topic, topicId, partition }, from < oldest ? oldest : from, end, signal)) {
          next.set(partition, message.offset + 1n)
          yield toItem(message, { topic, topicId, format, position: position++, watermark: watermarkOf(source, next) })
          if (position >= limit) return
        }
      }
    } finally {
      forget()
      leave()
    }
  }

  /** The messages of one partition from an offset up to another, that one not included. */
  async *#partition(
    place: Place,
    from: bigint,
    end: bigint,
    signal: AbortSignal,
  ): AsyncGenerator<Parameters<typeof toItem>[0], void, undefined> {
    let offset = from
    for (let empty = 0; offset < end && empty < EMPTY_FETCHES;) {
      const batches = await this.#fetch(place, offset, signal)
      empty = batches.length === 0 ? empty + 1 : 0
      for (const { firstOffset, lastOffsetDelta, firstTimestamp, attributes, records } of batches) {
        for (const { offsetDelta, timestampDelta, key, value, headers } of (attributes & CONTROL) === 0 ? records : []) {
          const found = firstOffset + BigInt(offsetDelta)
          if (found >= end) return
          // A batch is given whole, also when what was asked for begins in its middle.
          if (found >= offset)
            yield { partition: place.partition, offset: found, key, value, headers, timestamp: firstTimestamp + timestampDelta }
        }
        const after = firstOffset + BigInt(lastOffsetDelta) + 1n
        if (after > offset) offset = after
      }
    }
  }

  async #fetch({ topic, topicId, partition }: Place, offset: bigint, signal: AbortSignal): Promise<readonly RecordsBatch[]> {
    const { id, partitions } = await this.#topic(topic, signal)
    if (id !== topicId) throw topicMadeAnew(this.brokers)
    const { leader, leaderEpoch } = partitions[partition] ?? { leader: -1, leaderEpoch: -1 }
    const [response] = await this.#mapped(signal, [
      this.#consumer().fetch({
        node: leader,
        topics: [
          {
            topicId,
            partitions: [
              {
                partition,
                currentLeaderEpoch: leaderEpoch,
                fetchOffset: offset,
                lastFetchedEpoch: -1,
                partitionMaxBytes: FETCH_BYTES,
              },
            ],
          },
        ],
        maxBytes: FETCH_BYTES,
        maxWaitTime: FETCH_MS,
      }),
    ])
    return response?.responses.flatMap(({ partitions: found }) => found.flatMap(({ records }) => records ?? [])) ?? []
  }

  /**
   * Reads messages in batches, has the sink write each, and commits its offsets then; resolves when the signal ends it.
   * Several may read with one group, each gets its share of the partitions.
   * @throws NotFoundError `KAFKA_TOPIC_NOT_FOUND`; what the sink throws
   */
  consume(query: KafkaConsumeQuery, sink: Sink, options: Pick<CallOptions, 'signal'> & BatchLimits = {}): Promise<Consumed> {
    return this.#life.run(options.signal, (life) => {
      const { attempts, retryBudgetMs } = this.#config
      return consumeBatches((signal) => this.#subscribe(query, signal), sink, {
        ...options,
        signal: AbortSignal.any([life, this.#stopping.signal]),
        policy: { attempts, budgetMs: retryBudgetMs },
        logger: this.#logger,
      })
    })
  }

  async #subscribe(query: KafkaConsumeQuery, signal: AbortSignal): Promise<KafkaSubscription> {
    const { topics, group, from = 'earliest', format = 'json' } = query
    const { sessionTimeoutMs } = this.#config
    const ids = new Map<string, string>()
    for (const topic of topics) ids.set(topic, (await this.#topic(topic, signal, true)).id)
    const options = {
      ...this.#options(group),
      sessionTimeout: sessionTimeoutMs,
      rebalanceTimeout: sessionTimeoutMs,
      heartbeatInterval: Math.min(3_000, sessionTimeoutMs / 3),
    }
    const known = new Set(ids.values())
    const consumer = new CommittedConsumer(options, (id) => (known.has(id) ? undefined : topicMadeAnew(this.brokers)))
    try {
      const [stream] = await this.#mapped(signal, [
        consumer.consume({ topics: [...topics], mode: 'committed', fallbackMode: from, autocommit: false }),
      ])
      if (stream === undefined) throw ended(this.brokers)
      const mapError = (error: unknown): unknown => toKafkaError(error, this.brokers)
      return new KafkaSubscription(consumer, stream, this.#logger, mapError, (message, position) =>
        toItem(driverMessage(message), { topic: message.topic, topicId: ids.get(message.topic) ?? '', format, position }),
      )
    } catch (error) {
      await closeQuietly(consumer)
      throw error
    }
  }

  /** Finds the first broker, connects, logs in and asks for the cluster. */
  check(options?: CallOptions): Promise<CheckResult> {
    const { brokers, tls, ca, requestTimeoutMs } = this.#config
    const signal = options?.signal ?? new AbortController().signal
    const { hostname, port } = new URL(`kafka://${brokers[0] ?? ''}`)
    const steps = { host: hostname, port: Number(port), signal, timeoutMs: requestTimeoutMs, ...(tls ? { tls: { ca } } : {}) }
    const asked = async (deadline: AbortSignal): Promise<ClusterMetadata> => this.#metadata([], deadline)
    return runCheck(
      this.brokers,
      [
        ...networkSteps(steps),
        {
          name: 'log in',
          run: () =>
            this.#call(options, 'logging in', async (deadline) => {
              const { id, brokers: found } = await asked(deadline)
              return `cluster ${id}, ${found.size} brokers`
            }),
        },
        {
          name: 'latency',
          run: () =>
            this.#call(options, 'measuring the latency', async (deadline) => {
              const began = performance.now()
              await asked(deadline)
              return `${(performance.now() - began).toFixed(1)} ms`
            }),
        },
      ],
      options?.signal,
    )
  }

  close(options?: CloseOptions): Promise<void> {
    this.#stopping.abort()
    return this.#life.close(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #call<T>(options: CallOptions | undefined, action: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return this.#life.run(options?.signal, (signal) =>
      withDeadline({ ...options, signal }, { prefix: 'KAFKA', action }, (deadline) => work(deadline.signal)),
    )
  }

  /** All of them, under the signal, with errors of ours. */
  async #mapped<T>(signal: AbortSignal, work: readonly Promise<T>[]): Promise<T[]> {
    try {
      return await untilAborted(Promise.all(work), signal)
    } catch (error) {
      signal.throwIfAborted()
      throw toKafkaError(error, this.brokers)
    }
  }

  /** What is known of a topic, if need be what was known some seconds ago. */
  async #topic(topic: string, signal: AbortSignal, forceUpdate = false): Promise<ClusterTopicMetadata> {
    const found = (await this.#metadata([topic], signal, forceUpdate)).topics.get(topic)
    if (found === undefined) throw topicNotFound(topic)
    return found
  }

  #metadata(topics: readonly string[], signal: AbortSignal, forceUpdate = true): Promise<ClusterMetadata> {
    const { attempts, retryBudgetMs } = this.#config
    return retry(
      async () => {
        const [metadata] = await this.#mapped(signal, [this.#consumer().metadata({ topics: [...topics], forceUpdate })])
        if (metadata === undefined) throw ended(this.brokers)
        return metadata
      },
      {
        signal,
        policy: { attempts, budgetMs: retryBudgetMs },
        idempotent: true,
        onRetry: (error, next) => this.#logger.warn({ error, ...next }, 'no connection'),
      },
    )
  }

  #consumer(): Consumer {
    return (this.#reader ??= new CommittedConsumer(this.#options(`${this.#config.clientId}-reader`)))
  }

  #options(groupId: string): BaseOptions & { groupId: string } & ConsumeBaseOptions<Buffer, Buffer, Buffer, Buffer> {
    const { brokers, username, password, mechanism, tls, ca, clientId, requestTimeoutMs } = this.#config
    return {
      clientId,
      groupId,
      bootstrapBrokers: [...brokers],
      connectTimeout: requestTimeoutMs,
      requestTimeout: requestTimeoutMs,
      timeout: requestTimeoutMs,
      // Who failed says so, and the call is made again where that is right.
      retries: 0,
      autocommit: false,
      isolationLevel: FetchIsolationLevels.READ_COMMITTED,
      maxBytes: FETCH_BYTES,
      maxBytesPerPartition: FETCH_BYTES,
      maxWaitTime: FETCH_MS,
      ...(tls ? { tls: ca === undefined ? {} : { ca } } : {}),
      ...(username === undefined || password === undefined
        ? {}
        : { sasl: { mechanism: MECHANISMS[mechanism], username, password: password.expose() } }),
    }
  }
}

const MECHANISMS = { plain: 'PLAIN', 'scram-sha-256': 'SCRAM-SHA-256', 'scram-sha-512': 'SCRAM-SHA-512' } as const

type DriverMessage = Message

/** A consumer that gives no message of a transaction that was aborted, and none of a topic whose offsets began again. */
class CommittedConsumer extends Consumer {
  readonly #refused: (topicId: string) => Error | undefined

  /** `refused` says why the topic of an id is not to be read. */
  constructor(
    options: ConsumerOptions<Buffer, Buffer, Buffer, Buffer>,
    refused: (topicId: string) => Error | undefined = () => undefined,
  ) {
    super(options)
    this.#refused = refused
  }

  override fetch(options: Fetch, callback: CallbackWithPromise<FetchResponse>): void
  override fetch(options: Fetch): Promise<FetchResponse>
  override fetch(options: Fetch, callback?: CallbackWithPromise<FetchResponse>): Promise<FetchResponse> | undefined {
    const refused = options.topics.map(({ topicId }) => this.#refused(topicId)).find((error) => error !== undefined)
    if (refused !== undefined && callback !== undefined) {
      callback(refused)
      return undefined
    }
    const committed = (response: FetchResponse): FetchResponse => {
      for (const { partitions } of response.responses) for (const partition of partitions) passOverAborted(partition)
      return response
    }
    if (callback === undefined) return super.fetch(options).then(committed)
    super.fetch(options, (error, response) => callback(error, response && committed(response)))
    return undefined
  }
}

/** A partition, and which topic of its name is meant. */
interface Place {
  readonly topic: string
  readonly topicId: string
  readonly partition: number
}

type Fetch = FetchOptions<Buffer, Buffer, Buffer, Buffer>
type FetchResponse = Awaited<ReturnType<Consumer['fetch']>>

/** One membership of a group. */
class KafkaSubscription implements Subscription<DriverMessage> {
  readonly deliveries: AsyncIterator<Delivery<DriverMessage>, void, undefined>
  readonly #consumer: Consumer
  readonly #stream: MessagesStream<Buffer, Buffer, Buffer, Buffer>
  readonly #logger: Logger
  readonly #mapError: (error: unknown) => unknown
  readonly #toItem: (message: DriverMessage, position: number) => StreamItem

  constructor(
    consumer: Consumer,
    stream: MessagesStream<Buffer, Buffer, Buffer, Buffer>,
    logger: Logger,
    mapError: (error: unknown) => unknown,
    item: (message: DriverMessage, position: number) => StreamItem,
  ) {
    this.#consumer = consumer
    this.#stream = stream
    this.#logger = logger
    this.#mapError = mapError
    this.#toItem = item
    this.deliveries = this.#deliver()
  }

  async *#deliver(): AsyncGenerator<Delivery<DriverMessage>, void, undefined> {
    let position = 0
    try {
      for await (const message of this.#stream) {
        yield { item: this.#toItem(message, position++), handle: message }
      }
    } catch (error) {
      throw this.#mapError(error)
    }
    throw this.#mapError(new Error('the stream ended'))
  }

  /** Commits the offset after the last message of each partition that is still this consumer's. */
  async acknowledge(handles: readonly DriverMessage[]): Promise<void> {
    const last = new Map<string, DriverMessage>()
    for (const message of handles) {
      const partition = `${message.topic}/${message.partition}`
      const known = last.get(partition)
      // After a rebalance messages may come again, and with them lower offsets.
      if (known === undefined || known.offset < message.offset) last.set(partition, message)
    }
    const isOurs = ({ topic, partition }: DriverMessage): boolean =>
      this.#consumer.assignments?.some((one) => one.topic === topic && one.partitions.includes(partition)) === true
    const offsets = [...last.values()]
      .filter(isOurs)
      .map(({ topic, partition, offset, leaderEpoch }) => ({ topic, partition, offset: offset + 1n, leaderEpoch }))
    if (offsets.length === 0) return
    try {
      await this.#consumer.commit({ offsets })
    } catch (thrown) {
      const error = this.#mapError(thrown)
      if (!HandlerError.is(error) || error.code !== 'KAFKA_REBALANCED') throw error
      // The messages are safe; whoever has the partition now gets them again, and the sink knows them.
      this.#logger.debug({ error }, 'offsets were not committed: the group is being rebalanced')
    }
  }

  async close(): Promise<void> {
    await closeQuietly(this.#consumer)
  }
}

/** Leaves the group and closes what is open, where the broker still answers. */
async function closeQuietly(consumer: Consumer): Promise<void> {
  const late = Promise.withResolvers<void>()
  const timer = setTimeout(late.resolve, CLOSE_MS)
  await Promise.race([late.promise, consumer.close(true).catch(() => undefined)])
  clearTimeout(timer)
}

function driverMessage(message: DriverMessage): Parameters<typeof toItem>[0] {
  const { partition, offset, timestamp, headerEntries } = message
  // The driver's types know no tombstone, and no message without a key.
  const { key, value } = message as { readonly key?: Buffer | null; readonly value?: Buffer | null }
  return { partition, offset, timestamp, key: key ?? null, value: value ?? null, headers: headerEntries }
}
