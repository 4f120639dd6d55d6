import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { networkSteps } from '@common-handlers/connections/check'
import {
  type CallOptions,
  type CheckResult,
  type Closable,
  type CloseOptions,
  Lifecycle,
  retry,
  runCheck,
  withDeadline,
} from '@common-handlers/core'
import type { NewprotocolConfig } from './config.ts'
import {
  answerLate,
  answerUnusable,
  endedEarly,
  NEWPROTOCOL,
  queryUnusable,
  toNewprotocolError,
  toServerError,
} from './errors.ts'

/** What is read: the rows of a table in the order of their ids, those after an id where one is given. */
export interface NewprotocolQuery {
  readonly table: string
  /** The watermark of an earlier item. */
  readonly watermark?: string | undefined
}

export interface NewprotocolRow {
  readonly id: bigint
  readonly data: unknown
}

/** The rows of a server that speaks in lines. Each call has a connection of its own, which ends with it. */
export class NewprotocolClient implements Closable {
  readonly #config: NewprotocolConfig
  readonly #life = new Lifecycle('NewprotocolClient', NEWPROTOCOL, async () => undefined)

  constructor(config: NewprotocolConfig) {
    this.#config = config
  }

  /** The server, without secrets. */
  get target(): string {
    return `newprotocol://${this.#config.host}:${this.#config.port}`
  }

  /** Logs in, and says which version the server has. */
  connect(options?: CallOptions): Promise<string> {
    return this.#life.run(options?.signal, (signal) =>
      withDeadline({ ...options, signal }, { prefix: NEWPROTOCOL, action: 'connecting' }, async (deadline) => {
        await using session = await this.#session(deadline.signal)
        return session.version
      }),
    )
  }

  /** Rows one at a time, for tables larger than memory. */
  async *rows(
    query: NewprotocolQuery,
    options: Pick<CallOptions, 'signal'> = {},
  ): AsyncGenerator<NewprotocolRow, void, undefined> {
    const { table, watermark = '0' } = query
    if (!/^\w+$/.test(table)) throw queryUnusable(`table ${JSON.stringify(table)}: expected letters, digits and underscores`)
    if (!/^\d+$/.test(watermark)) throw queryUnusable(`watermark ${JSON.stringify(watermark)}: expected that of an earlier item`)
    const leave = this.#life.hold()
    try {
      const signal = AbortSignal.any([this.#life.signal, ...(options.signal === undefined ? [] : [options.signal])])
      await using session = await this.#session(signal)
      session.send(`READ ${table} ${watermark}`)
      for (;;) {
        const [word, id = '', ...rest] = (await session.answer()).split(' ')
        // Lines that are here already are not given to somebody who has left.
        signal.throwIfAborted()
        if (word === 'END') return
        if (word !== 'ROW' || !/^\d+$/.test(id)) throw answerUnusable(this.target, `expected ROW or END and got ${word}`)
        yield { id: BigInt(id), data: this.#parsed(rest.join(' ')) }
      }
    } finally {
      leave()
    }
  }

  /** Looks at the network, then logs in. A protocol with rights would try them here, too. */
  check(options?: CallOptions): Promise<CheckResult> {
    const { host, port, username } = this.#config
    const signal = options?.signal ?? new AbortController().signal
    return runCheck(
      this.target,
      [
        // With TLS: tls: { ca, servername }, and startTls where the protocol begins in clear.
        ...networkSteps({ host, port, signal }),
        { name: `log in as ${username}`, run: async () => `version ${await this.connect({ signal })}` },
        { name: 'latency', run: () => this.#latency(signal) },
      ],
      signal,
    )
  }

  close(options?: CloseOptions): Promise<void> {
    return this.#life.close(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #latency(signal: AbortSignal): Promise<string> {
    await using session = await this.#session(signal)
    const began = performance.now()
    session.send('PING')
    await session.answer()
    return `${(performance.now() - began).toFixed(1)} ms`
  }

  /** A connection that is logged in. Where nothing was sent yet it is tried again. */
  #session(signal: AbortSignal): Promise<Session> {
    const { username, password } = this.#config
    return retry(
      async () => {
        const session = await Session.open(this.#config, this.target, signal)
        try {
          session.send(`LOGIN ${username} ${password.expose()}`)
          await session.answer()
          return session
        } catch (error) {
          await session[Symbol.asyncDispose]()
          throw error
        }
      },
      { signal, policy: { attempts: 3, budgetMs: 2_000 } },
    )
  }

  #parsed(text: string): unknown {
    try {
      return JSON.parse(text)
    } catch (cause) {
      throw answerUnusable(this.target, 'a row is no JSON', cause)
    }
  }
}

/** One connection: lines out, lines in, no more of them in memory than the socket's own buffer holds. */
class Session {
  /** What the server says that it is. */
  version = ''
  readonly #socket: Socket
  readonly #lines: AsyncGenerator<string, void, undefined>
  readonly #target: string
  readonly #answerTimeoutMs: number

  private constructor(socket: Socket, lines: AsyncGenerator<string, void, undefined>, target: string, answerTimeoutMs: number) {
    this.#socket = socket
    this.#lines = lines
    this.#target = target
    this.#answerTimeoutMs = answerTimeoutMs
  }

  static async open({ host, port, answerTimeoutMs }: NewprotocolConfig, target: string, signal: AbortSignal): Promise<Session> {
    signal.throwIfAborted()
    const socket = connect({ host, port })
    // An abort ends the connection, and with it whatever the server does for it.
    const end = (): void => void socket.destroy(signal.reason as Error)
    signal.addEventListener('abort', end, { once: true })
    socket.once('close', () => signal.removeEventListener('abort', end))
    socket.on('timeout', () => socket.destroy(answerLate(target, answerTimeoutMs)))
    socket.setTimeout(answerTimeoutMs)
    try {
      await once(socket, 'connect')
      const lines = linesOf(socket, target, signal)
      const session = new Session(socket, lines, target, answerTimeoutMs)
      const [word, version = ''] = (await session.answer()).split(' ')
      if (word !== 'HELLO') throw answerUnusable(target, `expected HELLO and got ${word}: another protocol may be spoken there`)
      session.version = version
      return session
    } catch (error) {
      socket.destroy()
      signal.throwIfAborted()
      throw toNewprotocolError(error, target)
    }
  }

  send(line: string): void {
    this.#socket.write(`${line}\n`)
  }

  /** The next line, unless it is an error. The limit is that of the server: whoever reads the lines may take their time. */
  async answer(): Promise<string> {
    this.#socket.setTimeout(this.#answerTimeoutMs)
    const { value, done } = await this.#lines.next().finally(() => this.#socket.setTimeout(0))
    if (done === true) throw endedEarly(this.#target)
    const [word, name = '', ...message] = value.split(' ')
    if (word === 'ERROR') throw toServerError(name, message.join(' '), this.#target)
    return value
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.destroy()
    await this.#lines.return().catch(() => undefined)
  }
}

async function* linesOf(socket: Socket, target: string, signal: AbortSignal): AsyncGenerator<string, void, undefined> {
  let rest = ''
  try {
    // Decoded by the socket: a character may stand in two chunks.
    for await (const chunk of socket.setEncoding('utf8') as AsyncIterable<string>) {
      const lines = (rest + chunk).split('\n')
      rest = lines.pop() ?? ''
      yield* lines
    }
  } catch (error) {
    signal.throwIfAborted()
    throw toNewprotocolError(error, target)
  }
}
