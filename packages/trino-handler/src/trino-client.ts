import { ConfigError, HandlerError, type Secret } from '@common-handlers/core'
import type { TrinoConfigInput } from './config.ts'
import { unlessAborted } from './credentials.ts'
import { fromStatus, fromTransport, notTheProtocol } from './errors.ts'
import type { TransportReply, TransportRequest, TrinoTransport } from './transport.ts'

/** A `Trino` of trino-client 0.2, by its structure. */
export interface TrinoClient {
  query(query: { readonly query: string; readonly extraHeaders?: Record<string, string> }): Promise<AsyncIterator<object>>
  queryInfo(queryId: string): Promise<object>
  cancel(queryId: string): Promise<object>
}

/** What `Trino.create()` of trino-client 0.2 takes, by its structure. */
export interface TrinoClientOptions {
  readonly server?: string | undefined
  readonly source?: string | undefined
  readonly catalog?: string | undefined
  readonly schema?: string | undefined
  /** A `BasicAuth`. */
  readonly auth?: { readonly type: string; readonly username?: string; readonly password?: string | undefined } | undefined
  readonly session?: Readonly<Record<string, string>> | undefined
  readonly extraCredential?: Readonly<Record<string, string | Secret>> | undefined
  readonly ssl?:
    | {
        readonly ca?: unknown
        readonly cert?: unknown
        readonly key?: unknown
        readonly passphrase?: string | undefined
        readonly rejectUnauthorized?: boolean | undefined
      }
    | undefined
  readonly extraHeaders?: Readonly<Record<string, string>> | undefined
}

/**
 * The options of TrinoHandler from those of `trino-client`, so that moving over is one line:
 * `new TrinoHandler(fromTrinoClientOptions({ server, auth: new BasicAuth('me', 'secret') }))`.
 * @throws ConfigError `TRINO_CONFIG_INVALID` for what has no counterpart here
 */
export function fromTrinoClientOptions(options: TrinoClientOptions): TrinoConfigInput {
  const { server = 'http://localhost:8080', auth, session, extraCredential, extraHeaders = {}, ssl, ...same } = options
  const headers = new Map(Object.entries(extraHeaders).map(([name, value]) => [name.toLowerCase(), value]))
  const user = auth?.username ?? headers.get('x-trino-user')
  headers.delete('x-trino-user')
  // Sent always.
  headers.delete('x-trino-client-capabilities')
  const [unknown] = headers.keys()
  if (unknown !== undefined) throw refused(`extraHeaders: ${unknown} is an option of its own here, or has no counterpart`)
  if (user === undefined)
    throw refused('auth: there is no user; trino-client takes that of the operating system, this handler none')
  if (auth !== undefined && auth.type !== 'basic') throw refused(`auth: type ${auth.type} is not that of a BasicAuth`)
  const pem = (name: string, value: unknown): string | undefined => {
    if (value === undefined) return undefined
    if (typeof value === 'string' || Buffer.isBuffer(value)) return value.toString()
    throw refused(`ssl.${name}: only one PEM text is taken`)
  }
  const tls = ssl && {
    caCert: pem('ca', ssl.ca),
    clientCert: pem('cert', ssl.cert),
    clientKey: pem('key', ssl.key),
    clientKeyPassphrase: ssl.passphrase,
    verify: ssl.rejectUnauthorized,
  }
  return {
    ...same,
    url: server,
    user,
    password: auth?.password === '' ? undefined : auth?.password,
    sessionProperties: session,
    extraCredentials: extraCredential,
    tls,
  }
}

const refused = (problem: string): ConfigError =>
  new ConfigError(`the options of trino-client cannot be taken over: ${problem}`, {
    code: 'TRINO_CONFIG_INVALID',
    context: { problems: [problem] },
  })

/**
 * The way to the server by a `trino-client` that is configured already: `new TrinoHandler({ transport: fromTrinoClient(trino) })`.
 * What that client cannot do, this way cannot either; the README has the list.
 */
export function fromTrinoClient(client: TrinoClient): TrinoTransport {
  return new ClientTransport(client)
}

const TARGET = 'the server of trino-client'
const ADDRESS = 'trino-client:/'

/** A statement of that client, by the address it has here. */
interface Running {
  readonly iterator: AsyncIterator<object>
  readonly id: string
}

interface VersionAnswer {
  readonly data?: readonly (readonly string[])[]
  readonly error?: { readonly message?: string }
}

class ClientTransport implements TrinoTransport {
  readonly target = TARGET
  readonly #client: TrinoClient
  readonly #running = new Map<string, Running>()
  #made = 0

  constructor(client: TrinoClient) {
    this.#client = client
  }

  async send({ method, uri, signal, headers, body, expected }: TransportRequest): Promise<TransportReply> {
    signal?.throwIfAborted()
    try {
      const reply = await unlessAborted(this.#send(method, uri, headers, body), signal)
      if (expected.includes(reply.status)) return reply
      throw fromStatus(reply.status, '', TARGET, undefined)
    } catch (error) {
      if (signal?.aborted === true) throw signal.reason
      const status = statusOf(error)
      if (status !== undefined && expected.includes(status)) return { status, headers: {}, body: {} }
      throw translated(error, status)
    }
  }

  async #send(
    method: TransportRequest['method'],
    uri: string,
    headers: TransportRequest['headers'] = {},
    body = '',
  ): Promise<TransportReply> {
    if (method === 'HEAD') return ok({})
    if (method === 'POST') return this.#post(body, headers)
    if (uri === '/v1/info') return ok(await this.#info())
    const queryId = /^\/v1\/query\/([^?]+)/.exec(uri)?.[1]
    if (queryId !== undefined) {
      const id = decodeURIComponent(queryId)
      return ok(method === 'DELETE' ? await this.#client.cancel(id) : await this.#client.queryInfo(id))
    }
    const running = this.#running.get(uri)
    if (running === undefined) return { status: 404, headers: {}, body: {} }
    if (method === 'DELETE') {
      this.#running.delete(uri)
      await this.#client.cancel(running.id)
      return ok({})
    }
    return ok(await this.#next(uri, running))
  }

  async #post(text: string, headers: Readonly<Record<string, string>>): Promise<TransportReply> {
    const { 'Content-Type': _, ...rest } = headers
    const iterator = await this.#client.query({ query: text, extraHeaders: rest })
    const uri = `${ADDRESS}${++this.#made}`
    // The first answer stays inside of the iterator: without a look at it, a statement has no id before its first row.
    const first = (iterator as { iter?: { queryResult?: { id?: unknown; nextUri?: unknown } } }).iter?.queryResult
    if (typeof first?.id !== 'string')
      throw notTheProtocol(TARGET, 'this version of trino-client keeps its first answer elsewhere')
    if (first.nextUri === undefined) return ok(first)
    this.#running.set(uri, { iterator, id: first.id })
    return ok({ ...first, nextUri: uri })
  }

  /** It has no call for this: the version is asked for in SQL. */
  async #info(): Promise<object> {
    const iterator = await this.#client.query({ query: 'SELECT version()' })
    for (;;) {
      const { value, done } = (await iterator.next()) as IteratorResult<VersionAnswer, VersionAnswer>
      const version = value.data?.[0]?.[0]
      if (version !== undefined) return { nodeVersion: { version } }
      if (done === true || value.error !== undefined) throw notTheProtocol(TARGET, value.error?.message ?? '')
    }
  }

  async #next(uri: string, running: Running): Promise<object> {
    const { value, done } = (await running.iterator.next()) as IteratorResult<{ nextUri?: string }, { nextUri?: string }>
    const ended = done === true || value.nextUri === undefined
    if (ended) this.#running.delete(uri)
    const { nextUri: _, ...answer } = value
    return ended ? answer : { ...answer, nextUri: uri }
  }

  /** The client has no connections to close. */
  async close(): Promise<void> {}
}

const ok = (body: object): TransportReply => ({ status: 200, headers: {}, body })

const statusOf = (error: unknown): number | undefined => (error as { response?: { status?: number } }).response?.status

/** The error of the client holds its request, password included: what is taken over is said here. */
function translated(error: unknown, status: number | undefined): unknown {
  const { response, code, message } = error as { response?: { data?: unknown }; code?: string; message?: string }
  if (status !== undefined) return fromStatus(status, typeof response?.data === 'string' ? response.data : '', TARGET, undefined)
  if (HandlerError.is(error) || code === undefined) return error
  return fromTransport(Object.assign(new Error(message), { code }), TARGET)
}
