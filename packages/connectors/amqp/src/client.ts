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
  Lifecycle,
  type Logger,
  onAbort,
  retry,
  runCheck,
  silentLogger,
  withDeadline,
  untilAborted,
} from '@common-handlers/core'
import { type ChannelModel, type ConfirmChannel, connect, type ConsumeMessage, type GetMessage } from 'amqplib'
import type { AmqpConfig } from './config.ts'
import { consumerCancelled, toAmqpError, unroutable } from './errors.ts'
import { type AmqpMessage, toBytesItem, toItem } from './messages.ts'

/** The messages that a queue holds now, oldest first. They stay in the queue. */
export interface AmqpQuery {
  readonly queue: string
  /** What payloads are. One that is something else is given as its bytes. Default `json`. */
  readonly format?: PayloadFormat | undefined
  /** At most so many. */
  readonly limit?: number | undefined
}

/** What {@link AmqpClient.consume} reads. */
export interface AmqpConsumeQuery {
  readonly queue: string
  /** What payloads are. Default `json`. */
  readonly format?: PayloadFormat | undefined
  /** Where messages go whose payload is something else, with their routing key. Default: to the sink, as their bytes. */
  readonly deadLetterExchange?: string | undefined
  /** Messages that the server gives out before the first is acknowledged. Default: those of a batch, and 1 000. */
  readonly prefetch?: number | undefined
}

const MAX_PREFETCH = 65_535
const DEFAULT_ROWS = 10_000
const PREFETCHED_BESIDE_A_BATCH = 1_000

/** Queues of an AMQP 0-9-1 server. One connection, made again by the next call when it was lost; a channel for each reading. */
export class AmqpClient implements Closable {
  readonly #config: AmqpConfig
  readonly #logger: Logger
  readonly #life: Lifecycle
  /** Ends every `consume` when the client is closed. */
  readonly #stopping = new AbortController()
  #connection: Promise<ChannelModel> | undefined

  constructor(config: AmqpConfig, logger: Logger = silentLogger) {
    this.#config = config
    this.#logger = logger
    this.#life = new Lifecycle('AmqpClient', 'AMQP', async () => {
      const connection = await this.#connection?.catch(() => undefined)
      if (connection !== undefined) await closeQuietly(connection)
    })
  }

  /** Where it is, without a login. */
  get server(): string {
    const { host, port, vhost, tls } = this.#config
    return `${tls ? 'amqps' : 'amqp'}://${host}:${port}/${encodeURIComponent(vhost)}`
  }

  /** Connects; implied by the first call. */
  connect(options?: CallOptions): Promise<void> {
    return this.#call(options, 'connecting', async (signal) => {
      await this.#connected(signal)
    })
  }

  /**
   * Reads what a queue holds now and leaves it there: the messages are given back when the reading ends, and are marked
   * as redelivered from then on. Meanwhile nobody else gets them.
   * @throws NotFoundError `AMQP_NOT_FOUND`
   */
  async *read(
    { queue, format = 'json', limit = Infinity }: AmqpQuery,
    options: Pick<CallOptions, 'signal'> = {},
  ): AsyncGenerator<StreamItem, void, undefined> {
    const leave = this.#life.hold()
    // Nobody may come back to a reading that was left standing.
    const forget = onAbort(this.#life.signal, leave)
    const signal = AbortSignal.any([this.#life.signal, ...(options.signal === undefined ? [] : [options.signal])])
    try {
      const channel = await this.#mapped(signal, this.#channel(await this.#connected(signal)))
      try {
        const { messageCount } = await this.#mapped(signal, channel.checkQueue(queue))
        for (let position = 0; position < Math.min(messageCount, limit); position++) {
          const message = await this.#mapped(signal, channel.get(queue))
          if (message === false) return
          const facts = { queue, format, position }
          const received = amqpMessage(message)
          yield toItem(received, facts) ?? toBytesItem(received, facts)
        }
      } finally {
        // Gives back what was not acknowledged, in its old place.
        await closeQuietly(channel)
      }
    } finally {
      forget()
      leave()
    }
  }

  /**
   * Reads messages in batches, has the sink write each, and acknowledges it then; resolves when the signal ends it.
   * Several may read from one queue, each gets its share.
   * @throws NotFoundError `AMQP_NOT_FOUND`, `AMQP_UNROUTABLE`; what the sink throws
   */
  consume(query: AmqpConsumeQuery, sink: Sink, options: Pick<CallOptions, 'signal'> & BatchLimits = {}): Promise<Consumed> {
    const { rows = DEFAULT_ROWS } = options
    const prefetch = Math.min(MAX_PREFETCH, query.prefetch ?? rows + PREFETCHED_BESIDE_A_BATCH)
    return this.#life.run(options.signal, (life) => {
      const { attempts, retryBudgetMs } = this.#config
      return consumeBatches((signal) => this.#subscribe({ ...query, prefetch }, signal), sink, {
        ...options,
        signal: AbortSignal.any([life, this.#stopping.signal]),
        policy: { attempts, budgetMs: retryBudgetMs },
        logger: this.#logger,
      })
    })
  }

  async #subscribe(query: AmqpConsumeQuery & { readonly prefetch: number }, signal: AbortSignal): Promise<AmqpSubscription> {
    const channel = await this.#mapped(signal, this.#channel(await this.#connectOnce(signal)))
    const subscription = new AmqpSubscription(channel, query, (error) => toAmqpError(error, this.server))
    try {
      await untilAborted(subscription.begin(), signal)
      return subscription
    } catch (error) {
      await subscription.close()
      throw error
    }
  }

  /** Finds the server, connects, logs in and opens the virtual host. */
  check(options?: CallOptions): Promise<CheckResult> {
    const { host, port, tls, ca, connectTimeoutMs } = this.#config
    const signal = options?.signal ?? new AbortController().signal
    return runCheck(
      this.server,
      [
        ...networkSteps({ host, port, signal, timeoutMs: connectTimeoutMs, ...(tls ? { tls: { ca } } : {}) }),
        {
          name: 'log in',
          run: () =>
            this.#call(options, 'logging in', async (deadline) => {
              const { product, version } = (await this.#connected(deadline)).connection.serverProperties
              return `${product} ${version}`
            }),
        },
        {
          name: 'latency',
          run: () =>
            this.#call(options, 'measuring the latency', async (deadline) => {
              const connection = await this.#connected(deadline)
              const began = performance.now()
              const channel = await this.#channel(connection)
              const took = performance.now() - began
              await channel.close()
              return `${took.toFixed(1)} ms to open a channel`
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
      withDeadline({ ...options, signal }, { prefix: 'AMQP', action }, (deadline) =>
        this.#mapped(deadline.signal, work(deadline.signal)),
      ),
    )
  }

  async #mapped<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
    try {
      return await untilAborted(work, signal)
    } catch (error) {
      signal.throwIfAborted()
      throw toAmqpError(error, this.server)
    }
  }

  #connected(signal: AbortSignal): Promise<ChannelModel> {
    const { attempts, retryBudgetMs } = this.#config
    return retry(() => this.#connectOnce(signal), {
      signal,
      policy: { attempts, budgetMs: retryBudgetMs },
      idempotent: true,
      onRetry: (error, next) => this.#logger.warn({ error, ...next }, 'no connection'),
    })
  }

  /** The one connection, made for all calls that ask at the same time. */
  #connectOnce(signal: AbortSignal): Promise<ChannelModel> {
    this.#connection ??= this.#open()
    return untilAborted(this.#connection, signal)
  }

  #open(): Promise<ChannelModel> {
    const { host, port, vhost, username, password, tls, ca, heartbeatSeconds, connectTimeoutMs } = this.#config
    const forget = (): void => {
      if (this.#connection === opening) this.#connection = undefined
    }
    const opening: Promise<ChannelModel> = connect(
      {
        protocol: tls ? 'amqps' : 'amqp',
        hostname: host,
        port,
        vhost,
        username,
        password: password.expose(),
        heartbeat: heartbeatSeconds,
      },
      {
        timeout: connectTimeoutMs,
        noDelay: true,
        clientProperties: { connection_name: 'common-handlers' },
        ...(ca === undefined ? {} : { ca }),
      },
    ).then(
      (connection) => {
        connection.on('close', forget)
        // Each reading learns of it by its channel.
        connection.on('error', (error) => this.#logger.debug({ error: toAmqpError(error, this.server) }, 'the connection failed'))
        return connection
      },
      (error: unknown) => {
        forget()
        throw toAmqpError(error, this.server)
      },
    )
    opening.catch(() => undefined)
    return opening
  }

  async #channel(connection: ChannelModel): Promise<ConfirmChannel> {
    const channel = await connection.createConfirmChannel()
    // The call under way rejects with the same.
    channel.on('error', () => undefined)
    return channel
  }
}

/** One reading of a queue. */
class AmqpSubscription implements Subscription<ConsumeMessage> {
  readonly deliveries: AsyncIterator<Delivery<ConsumeMessage>, void, undefined>
  readonly maxRows: number
  readonly #channel: ConfirmChannel
  readonly #query: AmqpConsumeQuery & { readonly prefetch: number }
  readonly #mapError: (error: unknown) => unknown
  readonly #waiting: ConsumeMessage[] = []
  #arrived: () => void = () => undefined
  #failure: unknown
  #ended = false

  constructor(
    channel: ConfirmChannel,
    query: AmqpConsumeQuery & { readonly prefetch: number },
    mapError: (error: unknown) => unknown,
  ) {
    this.#channel = channel
    this.#query = query
    this.#mapError = mapError
    this.maxRows = query.prefetch
    this.deliveries = this.#deliver()
    channel.on('error', (error) => (this.#failure ??= mapError(error)))
    channel.on('close', () => this.#end(mapError(new Error('the channel was closed'))))
  }

  async begin(): Promise<void> {
    const { queue, prefetch } = this.#query
    try {
      await this.#channel.prefetch(prefetch)
      await this.#channel.consume(queue, (message) => {
        if (message === null) return this.#end(consumerCancelled(queue))
        this.#waiting.push(message)
        this.#arrived()
      })
    } catch (error) {
      throw this.#mapError(error)
    }
  }

  #end(failure: unknown): void {
    this.#failure ??= failure
    this.#ended = true
    this.#arrived()
  }

  async *#deliver(): AsyncGenerator<Delivery<ConsumeMessage>, void, undefined> {
    const { queue, format = 'json', deadLetterExchange } = this.#query
    let position = 0
    for (;;) {
      if (this.#ended) throw this.#failure
      const message = this.#waiting.shift()
      if (message === undefined) {
        await new Promise<void>((resolve) => (this.#arrived = resolve))
        continue
      }
      const received = amqpMessage(message)
      const facts = { queue, format, position }
      const item = toItem(received, facts)
      if (item === undefined && deadLetterExchange !== undefined) {
        await this.#setAside(message, deadLetterExchange)
        continue
      }
      position += 1
      yield { item: item ?? toBytesItem(received, facts), handle: message }
    }
  }

  /** Acknowledged once the exchange has it, and a queue: it is never nowhere. */
  async #setAside(message: ConsumeMessage, exchange: string): Promise<void> {
    const { routingKey } = message.fields
    const { headers, ...properties } = message.properties
    const returned = Promise.withResolvers<never>()
    returned.promise.catch(() => undefined)
    const refuse = (): void => returned.reject(unroutable(exchange, routingKey))
    // The server sends it back before it confirms it.
    this.#channel.once('return', refuse)
    const confirmed = new Promise<void>((resolve, reject) => {
      this.#channel.publish(
        exchange,
        routingKey,
        message.content,
        {
          ...properties,
          persistent: true,
          mandatory: true,
          headers: { ...headers, 'x-source-queue': this.#query.queue, 'x-expected-format': this.#query.format ?? 'json' },
        },
        (error) => (error === null ? resolve() : reject(this.#mapError(error))),
      )
    })
    try {
      await Promise.race([returned.promise, confirmed])
      this.#channel.ack(message)
    } catch (error) {
      throw this.#mapError(error)
    } finally {
      this.#channel.off('return', refuse)
    }
  }

  async acknowledge(handles: readonly ConsumeMessage[]): Promise<void> {
    const last = handles.at(-1)
    if (last === undefined) return
    try {
      // All of the batch: what came before it was acknowledged before.
      this.#channel.ack(last, true)
      // The answer to what was sent last: the server has had the rest.
      await this.#channel.checkQueue(this.#query.queue)
    } catch (error) {
      throw this.#mapError(error)
    }
  }

  /** What was not acknowledged goes back to its place in the queue. */
  async close(): Promise<void> {
    this.#ended = true
    await closeQuietly(this.#channel)
  }
}

const CLOSE_MS = 5_000

/** Closes what may have gone meanwhile, of which the driver's own `close` says nothing, or whose server says nothing any more. */
async function closeQuietly(open: ChannelModel | ConfirmChannel): Promise<void> {
  const gone = Promise.withResolvers<void>()
  open.on('close', () => gone.resolve())
  const timer = setTimeout(gone.resolve, CLOSE_MS)
  await Promise.race([gone.promise, open.close().catch(() => undefined)])
  clearTimeout(timer)
}

function amqpMessage({ fields, properties, content }: GetMessage | ConsumeMessage): AmqpMessage {
  const { exchange, routingKey, redelivered } = fields
  return {
    exchange,
    routingKey,
    redelivered,
    // A copy: what the driver gives is a part of all that came with it.
    content: new Uint8Array(content),
    properties: Object.fromEntries(
      Object.entries(properties).filter(
        ([name, value]) => value !== undefined && !(name === 'headers' && Object.keys(value as object).length === 0),
      ),
    ),
  }
}
