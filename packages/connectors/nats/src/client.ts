import { once } from 'node:events'
import type { Socket } from 'node:net'
import {
  type CallOptions,
  type CheckResult,
  type Closable,
  type CloseOptions,
  Lifecycle,
  type Logger,
  onAbort,
  retry,
  runCheck,
  silentLogger,
  withDeadline,
  untilAborted,
} from '@common-handlers/core'
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
  AckPolicy,
  type Consumer,
  type ConsumerInfo,
  type ConsumerMessages,
  DeliverPolicy,
  jetstream,
  JetStreamApiCodes,
  JetStreamApiError,
  type JetStreamManager,
  jetstreamManager,
  type JsMsg,
} from '@nats-io/jetstream'
import {
  ClosedConnectionError,
  connect,
  type ConnectionOptions,
  credsAuthenticator,
  type NatsConnection,
} from '@nats-io/transport-node'
import type { NatsConfig } from './config.ts'
import { connectionLost, consumerUnusable, toNatsError, watermarkInvalid } from './errors.ts'
import { type NatsMessage, sequenceAfter, sourceOf, toItem } from './messages.ts'

/** What is read of a stream. */
export interface NatsSelection {
  readonly stream: string
  /** Only messages of these subjects; `orders.>` and the like. Default: all. */
  readonly subjects?: readonly string[] | undefined
  /** What payloads are. One that is something else is given as its bytes. Default `json`. */
  readonly format?: PayloadFormat | undefined
}

/** The messages that are there now, oldest first. Nothing is acknowledged, and no consumer is left behind. */
export interface NatsQuery extends NatsSelection {
  /** At most so many. */
  readonly limit?: number | undefined
  /** That of the last item of an earlier read: only what comes after it is read. */
  readonly watermark?: string | undefined
}

/** What {@link NatsClient.consume} reads. */
export interface NatsConsumeQuery extends NatsSelection {
  /** The name of the durable pull consumer; made where there is none, with all messages of the stream before it. */
  readonly consumer: string
}

/** Messages asked for at once. */
const PULL_MESSAGES = 500
/** How long the server keeps such a request open. */
const PULL_MS = 30_000
/** Without a message or a heartbeat for so long, the end of a bounded read is asked for. */
const READ_MS = 2_000
const MAX_ACK_PENDING = 20_000
const NANOS_A_MS = 1e6

/** Streams of a NATS cluster. One connection, made again by the next call when it was lost. */
export class NatsClient implements Closable {
  readonly #config: NatsConfig
  readonly #logger: Logger
  readonly #life: Lifecycle
  /** Ends every `consume` when the client is closed. */
  readonly #stopping = new AbortController()
  #connection: Promise<NatsConnection> | undefined

  constructor(config: NatsConfig, logger: Logger = silentLogger) {
    this.#config = config
    this.#logger = logger
    this.#life = new Lifecycle('NatsClient', 'NATS', async () => {
      await (await this.#connection?.catch(() => undefined))?.close()
    })
  }

  /** The servers, without a login. */
  get servers(): string {
    return this.#config.servers.join(',')
  }

  /** Connects; implied by the first call. */
  connect(options?: CallOptions): Promise<void> {
    return this.#call(options, 'connecting', async (signal) => {
      await this.#connected(signal)
    })
  }

  /**
   * Reads what a stream holds now, in its order.
   * @throws NotFoundError `NATS_STREAM_NOT_FOUND`; RemoteError `NATS_REFUSED` for a stream with the retention of a work queue
   */
  async *read(query: NatsQuery, options: Pick<CallOptions, 'signal'> = {}): AsyncGenerator<StreamItem, void, undefined> {
    const leave = this.#life.hold()
    // Nobody may come back to a reading that was left standing.
    const forget = onAbort(this.#life.signal, leave)
    const signal = AbortSignal.any([this.#life.signal, ...(options.signal === undefined ? [] : [options.signal])])
    try {
      const connection = await this.#connected(signal)
      yield* this.#mapped(this.#readFrom(connection, query, signal), connection, signal)
    } finally {
      forget()
      leave()
    }
  }

  async *#readFrom(
    connection: NatsConnection,
    { stream, subjects, watermark, format = 'json', limit = Infinity }: NatsQuery,
    signal: AbortSignal,
  ): AsyncGenerator<StreamItem, void, undefined> {
    const manager = await untilAborted(this.#manager(connection), signal)
    const { created, state } = await untilAborted(manager.streams.info(stream), signal)
    const source = sourceOf(stream, created)
    const start = watermark === undefined ? 1 : sequenceAfter(watermark, source)
    if (start === undefined) throw watermarkInvalid()
    if (start > state.last_seq) return
    const consumer = await untilAborted(
      manager.consumers.add(stream, {
        ack_policy: AckPolicy.None,
        deliver_policy: DeliverPolicy.StartSequence,
        opt_start_seq: start,
        mem_storage: true,
        // The server removes it when this process does not.
        inactive_threshold: 60_000 * NANOS_A_MS,
        ...(subjects === undefined ? {} : { filter_subjects: [...subjects] }),
      }),
      signal,
    )
    try {
      if (consumer.num_pending === 0) return
      let position = 0
      for await (const message of this.#pull(connection, stream, consumer.name, signal)) {
        if (message === undefined) {
          // Messages may have gone since: ask whether any is left.
          const { num_pending: left } = await untilAborted(manager.consumers.info(stream, consumer.name), signal)
          if (left === 0) return
          continue
        }
        if (message.seq > state.last_seq) return
        yield toItem(natsMessage(message), { stream, source, format, position: position++ })
        if (position >= limit || message.seq === state.last_seq || message.info.pending === 0) return
      }
    } finally {
      if (!connection.isClosed()) await manager.consumers.delete(stream, consumer.name).catch(() => undefined)
    }
  }

  /** Messages as they are asked for; undefined when there was none for a while. */
  async *#pull(
    connection: NatsConnection,
    stream: string,
    name: string,
    signal: AbortSignal,
  ): AsyncGenerator<JsMsg | undefined, void, undefined> {
    const consumer = await untilAborted(this.#stream(connection).consumers.get(stream, name), signal)
    for (;;) {
      const messages = await untilAborted(consumer.fetch({ max_messages: PULL_MESSAGES, expires: READ_MS }), signal)
      const iterator = messages[Symbol.asyncIterator]()
      try {
        for (;;) {
          const step = await untilAborted(iterator.next(), signal)
          if (step.done === true) break
          yield step.value
        }
      } finally {
        messages.stop()
      }
      if (connection.isClosed()) throw connectionLost(this.servers)
      yield undefined
    }
  }

  /**
   * Reads messages in batches, has the sink write each, and acknowledges it then; resolves when the signal ends it. A
   * batch that takes long is kept from being delivered again. Several may read with one consumer, each gets its share.
   * @throws ConfigError `NATS_CONSUMER_UNUSABLE`; what the sink throws
   */
  consume(query: NatsConsumeQuery, sink: Sink, options: Pick<CallOptions, 'signal'> & BatchLimits = {}): Promise<Consumed> {
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

  async #subscribe(
    { stream, consumer, subjects, format = 'json' }: NatsConsumeQuery,
    signal: AbortSignal,
  ): Promise<NatsSubscription> {
    const connection = await this.#connectOnce(signal)
    try {
      const manager = await untilAborted(this.#manager(connection), signal)
      const { created } = await untilAborted(manager.streams.info(stream), signal)
      const info = await untilAborted(durableConsumer(manager, stream, consumer, subjects), signal)
      const pulled = await untilAborted(this.#stream(connection).consumers.get(stream, consumer), signal)
      return new NatsSubscription(
        connection,
        pulled,
        info,
        (error) => this.#lost(error, connection),
        (message, position) => toItem(natsMessage(message), { stream, source: sourceOf(stream, created), format, position }),
      )
    } catch (error) {
      signal.throwIfAborted()
      throw this.#lost(error, connection)
    }
  }

  /** Finds the servers, connects, logs in, and asks for JetStream. */
  check(options?: CallOptions): Promise<CheckResult> {
    const signal = options?.signal ?? new AbortController().signal
    const [first = ''] = this.#config.servers
    const { hostname, port } = new URL(`nats://${first}`)
    const { tls, ca, requestTimeoutMs } = this.#config
    return runCheck(
      this.servers,
      [
        ...networkSteps({
          host: hostname,
          port: port === '' ? 4222 : Number(port),
          signal,
          timeoutMs: requestTimeoutMs,
          ...(tls === true || ca !== undefined ? { tls: { ca, startTls: hearInfo } } : {}),
        }),
        {
          name: 'log in',
          run: () =>
            this.#call(options, 'logging in', async (deadline) => {
              const { info } = await this.#connected(deadline)
              return `NATS ${info?.version ?? ''}${info?.tls_required === true ? ', TLS' : ''}`
            }),
        },
        {
          name: 'ask for JetStream',
          run: () =>
            this.#call(options, 'asking for JetStream', async (deadline) => {
              const manager = await this.#manager(await this.#connected(deadline))
              const { streams, consumers } = await manager.getAccountInfo()
              return `${streams} streams, ${consumers} consumers`
            }),
        },
        {
          name: 'latency',
          run: () =>
            this.#call(options, 'measuring the latency', async (deadline) => {
              const connection = await this.#connected(deadline)
              const began = performance.now()
              await flush(connection)
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
      withDeadline({ ...options, signal }, { prefix: 'NATS', action }, async (deadline) => {
        try {
          return await untilAborted(work(deadline.signal), deadline.signal)
        } catch (error) {
          deadline.signal.throwIfAborted()
          throw toNatsError(error, this.servers)
        }
      }),
    )
  }

  #connected(signal: AbortSignal): Promise<NatsConnection> {
    const { attempts, retryBudgetMs } = this.#config
    return retry(() => this.#connectOnce(signal), {
      signal,
      policy: { attempts, budgetMs: retryBudgetMs },
      idempotent: true,
      onRetry: (error, next) => this.#logger.warn({ error, ...next }, 'no connection'),
    })
  }

  /** The one connection, made for all calls that ask at the same time. */
  #connectOnce(signal: AbortSignal): Promise<NatsConnection> {
    this.#connection ??= this.#open()
    return untilAborted(this.#connection, signal)
  }

  #open(): Promise<NatsConnection> {
    const opening = connect(connectionOptions(this.#config)).then(
      (connection) => {
        void connection.closed().then(() => {
          if (this.#connection === opening) this.#connection = undefined
        })
        return connection
      },
      (error: unknown) => {
        if (this.#connection === opening) this.#connection = undefined
        throw toNatsError(error, this.servers)
      },
    )
    opening.catch(() => undefined)
    return opening
  }

  #manager(connection: NatsConnection): Promise<JetStreamManager> {
    return jetstreamManager(connection, { ...this.#jetstreamOptions(), checkAPI: false })
  }

  #stream(connection: NatsConnection): ReturnType<typeof jetstream> {
    return jetstream(connection, this.#jetstreamOptions())
  }

  #jetstreamOptions(): { timeout: number; domain?: string } {
    const { requestTimeoutMs, domain } = this.#config
    return { timeout: requestTimeoutMs, ...(domain === undefined ? {} : { domain }) }
  }

  async *#mapped<T>(
    items: AsyncGenerator<T, void, undefined>,
    connection: NatsConnection,
    signal: AbortSignal,
  ): AsyncGenerator<T, void, undefined> {
    try {
      yield* items
    } catch (error) {
      signal.throwIfAborted()
      throw this.#lost(error, connection)
    }
  }

  /** What the driver throws about a connection that has gone is seldom that. */
  #lost(error: unknown, connection: NatsConnection): unknown {
    return connection.isClosed() ? connectionLost(this.servers, error) : toNatsError(error, this.servers)
  }
}

/** One reading of a consumer: messages are pulled when they are asked for, and kept from being delivered again until they are acknowledged. */
class NatsSubscription implements Subscription<JsMsg> {
  readonly deliveries: AsyncIterator<Delivery<JsMsg>, void, undefined>
  readonly maxRows: number | undefined
  readonly #connection: NatsConnection
  readonly #consumer: Consumer
  readonly #mapError: (error: unknown) => unknown
  readonly #toItem: (message: JsMsg, position: number) => StreamItem
  /** Delivered and not acknowledged, in order. */
  readonly #outstanding = new Set<JsMsg>()
  readonly #keepAlive: NodeJS.Timeout
  readonly #queue: JsMsg[] = []
  #arrived: () => void = () => undefined
  #pulled: ConsumerMessages | undefined
  #closed = false

  constructor(
    connection: NatsConnection,
    consumer: Consumer,
    { config }: ConsumerInfo,
    mapError: (error: unknown) => unknown,
    item: (message: JsMsg, position: number) => StreamItem,
  ) {
    this.#connection = connection
    this.#consumer = consumer
    this.#mapError = mapError
    this.#toItem = item
    const { max_ack_pending: most = 0, ack_wait: wait = 30_000 * NANOS_A_MS } = config
    this.maxRows = most > 0 ? most : undefined
    this.#keepAlive = setInterval(
      () => {
        for (const message of this.#outstanding) message.working()
      },
      Math.max(10, wait / NANOS_A_MS / 3),
    )
    this.deliveries = this.#deliver()
  }

  async *#deliver(): AsyncGenerator<Delivery<JsMsg>, void, undefined> {
    let position = 0
    while (!this.#closed) {
      const pull = this.#pull()
      // It may fail while nobody waits for a message.
      pull.catch(() => undefined)
      for (;;) {
        for (let message = this.#queue.shift(); message !== undefined; message = this.#queue.shift()) {
          yield { item: this.#toItem(message, position++), handle: message }
        }
        const arrived = Promise.withResolvers<void>()
        this.#arrived = arrived.resolve
        // Messages that came before the end of the pull are in the queue by now.
        if ((await Promise.race([pull.then(() => 'ended'), arrived.promise])) === 'ended' && this.#queue.length === 0) break
      }
    }
  }

  /** Asks for some messages and takes them as they come, so that all that were delivered are known. */
  async #pull(): Promise<void> {
    try {
      const messages = await this.#consumer.fetch({ max_messages: PULL_MESSAGES, expires: PULL_MS })
      this.#pulled = messages
      if (this.#closed) messages.stop()
      let count = 0
      for await (const message of messages) {
        count += 1
        this.#outstanding.add(message)
        this.#queue.push(message)
        this.#arrived()
      }
      // The end of a pull may be that of the connection, which does not say so.
      if (count < PULL_MESSAGES) await flush(this.#connection)
    } catch (error) {
      throw this.#mapError(error)
    }
    if (this.#connection.isClosed()) throw this.#mapError(new Error('the connection was closed'))
  }

  async acknowledge(handles: readonly JsMsg[]): Promise<void> {
    for (const message of handles) message.ack()
    try {
      // The answer to what was sent last: the server has had the rest.
      await flush(this.#connection)
    } catch (error) {
      throw this.#mapError(error)
    }
    for (const message of handles) this.#outstanding.delete(message)
  }

  /** Gives back what was not acknowledged, so that it is delivered at once. */
  async close(): Promise<void> {
    this.#closed = true
    clearInterval(this.#keepAlive)
    this.#pulled?.stop()
    if (this.#connection.isClosed()) return
    for (const message of this.#outstanding) message.nak()
    await flush(this.#connection).catch(() => undefined)
  }
}

/** The server speaks first, in clear, whatever follows: `INFO {…}` and the end of the line. */
async function hearInfo(socket: Socket, signal: AbortSignal): Promise<void> {
  for (let heard = ''; !heard.includes('\n'); heard += String(socket.read() ?? '')) await once(socket, 'readable', { signal })
}

/** Resolves when the server has had what was sent before. The driver's own never ends when the connection does. */
async function flush(connection: NatsConnection): Promise<void> {
  const closed = connection.closed().then(() => {
    throw new ClosedConnectionError()
  })
  await Promise.race([connection.flush(), closed])
}

function natsMessage(message: JsMsg): NatsMessage {
  const { subject, seq, data, timestampNanos, headers } = message
  return {
    subject,
    sequence: seq,
    // A copy: what the driver gives is a part of all that came with it.
    data: new Uint8Array(data),
    timestampNanos,
    headers: headers === undefined ? [] : headers.keys().map((name) => [name, headers.values(name)] as const),
  }
}

/** The consumer of a name, made where there is none. */
async function durableConsumer(
  manager: JetStreamManager,
  stream: string,
  name: string,
  subjects: readonly string[] | undefined,
): Promise<ConsumerInfo> {
  const found = await manager.consumers.info(stream, name).catch((error: unknown) => {
    if (error instanceof JetStreamApiError && error.code === JetStreamApiCodes.ConsumerNotFound) return undefined
    throw error
  })
  if (found === undefined) {
    return await manager.consumers.add(stream, {
      durable_name: name,
      ack_policy: AckPolicy.Explicit,
      deliver_policy: DeliverPolicy.All,
      max_ack_pending: MAX_ACK_PENDING,
      ...(subjects === undefined ? {} : { filter_subjects: [...subjects] }),
    })
  }
  const { ack_policy: policy, deliver_subject: push, filter_subject: filter, filter_subjects: filters } = found.config
  if (policy !== AckPolicy.Explicit) throw consumerUnusable(stream, name, `its ack policy is ${policy}, not explicit`)
  if (push !== undefined) throw consumerUnusable(stream, name, 'it is a push consumer')
  const theirs = (filters ?? (filter === undefined ? [] : [filter])).toSorted().join(' ')
  if (subjects !== undefined && theirs !== subjects.toSorted().join(' ')) {
    throw consumerUnusable(stream, name, `its subjects are ${theirs === '' ? 'all' : theirs}`)
  }
  return found
}

function connectionOptions(config: NatsConfig): ConnectionOptions {
  const { servers, username, password, token, credentials, tls, ca, requestTimeoutMs } = config
  return {
    servers: [...servers],
    name: 'common-handlers',
    timeout: requestTimeoutMs,
    // Who lost the connection says so, and the call is made again where that is right.
    reconnect: false,
    ...(username === undefined ? {} : { user: username }),
    ...(password === undefined ? {} : { pass: password.expose() }),
    ...(token === undefined ? {} : { token: token.expose() }),
    ...(credentials === undefined ? {} : { authenticator: credsAuthenticator(new TextEncoder().encode(credentials.expose())) }),
    ...(ca === undefined ? (tls === true ? { tls: {} } : {}) : { tls: { ca } }),
  }
}
