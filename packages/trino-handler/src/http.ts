import { spawnSync } from 'node:child_process'
import { rootCertificates } from 'node:tls'
import { parseRetryAfter, registerSecretValue, untilAborted } from '@common-handlers/core'
import { Agent, request } from 'undici'
import { type BlockBytes, type Blocks, collect } from './body-bytes.ts'
import type { TrinoConfig } from './config.ts'
import type { CredentialProvider, HeldLogin, TrinoLogin } from './credentials.ts'
import { fromStatus, fromTransport, segmentGone } from './errors.ts'
import { type SegmentAddress, textOf, type TransportReply, type TransportRequest, type TrinoTransport } from './transport.ts'

/** What a client certificate is made of. Connections belong to one. */
type Certificate = Pick<TrinoLogin, 'clientCert' | 'clientKey'>

/** Exchanges over kept connections, under the login that the credentials give at that moment. */
export class TrinoHttp implements TrinoTransport {
  readonly target: string
  readonly #config: TrinoConfig
  readonly #credentials: CredentialProvider
  /** Connections to the server, and to the stores of spooled segments, which must see neither login nor certificate. */
  #agent: { readonly of: Certificate; readonly agent: Agent } | undefined
  #storeAgent: Agent | undefined
  readonly #draining = new Set<Agent>()
  /** As the last exchange sent them: at exit nobody can be asked any more. */
  #headers: Readonly<Record<string, string>> = {}

  constructor(config: TrinoConfig, credentials: CredentialProvider) {
    this.target = new URL(config.url).origin
    this.#config = config
    this.#credentials = credentials
  }

  send(exchange: TransportRequest): Promise<TransportReply> {
    return this.#send(exchange)
  }

  /** With `memory`, the body of a 200 is put there. */
  async #send(exchange: TransportRequest, memory?: Blocks): Promise<TransportReply> {
    const { signal, expected } = exchange
    const login = await this.#credentials.acquire({ signal })
    let reply: TransportReply
    try {
      reply = await this.#exchange(exchange, login, memory)
      if (reply.status === 401) reply = (await this.#withNewer(exchange, login, memory)) ?? reply
    } finally {
      login.release()
    }
    if (expected.includes(reply.status)) return reply
    throw fromStatus(reply.status, textOf(reply), this.target, retryAfter(reply))
  }

  /** A 401 means that nothing was done: once more, with other credentials if there are. */
  async #withNewer(
    exchange: TransportRequest,
    rejected: HeldLogin,
    memory: Blocks | undefined,
  ): Promise<TransportReply | undefined> {
    const newer = await this.#credentials.acquire({ signal: exchange.signal, rejected })
    try {
      return isSame(newer, rejected) ? undefined : await this.#exchange(exchange, newer, memory)
    } finally {
      newer.release()
    }
  }

  async #exchange(
    { method, uri, signal, headers, body }: TransportRequest,
    login: TrinoLogin,
    memory: Blocks | undefined,
  ): Promise<TransportReply> {
    this.#headers = { ...authorization(login, this.#config), ...this.#identity(login, headers) }
    const options = { method, headers: { ...this.#headers, ...headers }, ...(body === undefined ? {} : { body }) }
    return this.#request(this.#resolve(uri), this.#agentOf(login), signal, options, memory)
  }

  async #request(
    url: string,
    dispatcher: Agent,
    signal: AbortSignal | undefined,
    options: { method: TransportRequest['method']; headers: Record<string, string>; body?: string },
    memory: Blocks | undefined,
  ): Promise<TransportReply> {
    try {
      // Without a word about it a proxy may pack what it hands on.
      const headers = { 'Accept-Encoding': 'identity', ...options.headers }
      const asked = request(url, { dispatcher, ...options, headers, ...(signal === undefined ? {} : { signal }) })
      // The driver does not end a request whose connection is being made, though it sends nothing of it any more.
      // An answer that came when nobody waited for it any more must have somebody who hears of its end.
      asked.then(({ body }) => body.on('error', () => undefined)).catch(() => undefined)
      const answer = await untilAborted(asked, signal)
      const body =
        memory !== undefined && answer.statusCode === 200
          ? await memory.collect(answer.body)
          : await collect(answer.body, Number(answer.headers['content-length'] ?? -1))
      return { status: answer.statusCode, headers: answer.headers, body }
    } catch (cause) {
      if (signal?.aborted === true) throw signal.reason
      throw fromTransport(cause, new URL(url).origin)
    }
  }

  async download({ uri, headers }: SegmentAddress, signal: AbortSignal, memory: Blocks): Promise<BlockBytes> {
    // The coordinator hands out segments too, under its own idea of its address, or says which store or worker does.
    if (!new URL(uri).pathname.startsWith('/v1/spooled/')) return this.#downloadElsewhere(uri, headers, signal, memory)
    const reply = await this.#send({ method: 'GET', uri, headers, signal, expected: [200, 303, 307, 404, 410] }, memory)
    const { location } = reply.headers
    if (reply.status === 200) return reply.body as BlockBytes
    if (typeof location !== 'string') throw segmentGone(this.target, reply.status, '')
    return this.#downloadElsewhere(new URL(location, uri).href, headers, signal, memory)
  }

  /** Whoever is not the coordinator is told nothing of who asks. */
  async #downloadElsewhere(
    uri: string,
    headers: SegmentAddress['headers'],
    signal: AbortSignal,
    memory: Blocks,
  ): Promise<BlockBytes> {
    const url = new URL(uri)
    const options = { method: 'GET', headers: { ...headers } } as const
    const reply = await this.#request(url.href, this.#agentOfStores(), signal, options, memory)
    if (reply.status === 200) return reply.body as BlockBytes
    // The address is signed, and so may be what a store says about it: only its code is taken.
    const code = /<Code>(\w+)<\/Code>/.exec(textOf(reply))?.[1] ?? ''
    if (reply.status >= 500 || reply.status === 429) throw fromStatus(reply.status, code, url.origin, retryAfter(reply))
    throw segmentGone(url.origin, reply.status, code)
  }

  cancelAtExit(uris: readonly string[]): void {
    const { caCert, verify, serverName, clientKeyPassphrase } = this.#config.tls
    const tls = {
      ...this.#agent?.of,
      ca: caCert,
      rejectUnauthorized: verify,
      servername: serverName,
      passphrase: clientKeyPassphrase?.expose(),
    }
    const { clientCert: cert, clientKey: key, ...rest } = tls
    const input = JSON.stringify({
      urls: uris.map((uri) => this.#resolve(uri)),
      options: { cert, key, ...rest, headers: this.#headers },
    })
    // Nothing asynchronous runs in this process any more; another one can. The login goes by its input, which nobody sees.
    spawnSync(process.execPath, ['-e', CANCEL_SCRIPT], {
      input,
      env: {},
      timeout: AT_EXIT_MS,
      stdio: ['pipe', 'ignore', 'ignore'],
    })
  }

  async close(): Promise<void> {
    const agents = [this.#agent?.agent, this.#storeAgent, ...this.#draining].filter((agent) => agent !== undefined)
    await Promise.all(agents.map((agent) => agent.destroy()))
  }

  #identity(login: TrinoLogin, { 'X-Trino-User': authorizationUser }: TransportRequest['headers'] = {}): Record<string, string> {
    const { user, sessionUser, source } = this.#config
    const principal = login.user ?? user
    const original = authorizationUser === undefined ? principal : (sessionUser ?? principal)
    return {
      'X-Trino-User': sessionUser ?? principal,
      ...(sessionUser === undefined && authorizationUser === undefined ? {} : { 'X-Trino-Original-User': original }),
      'X-Trino-Source': source,
    }
  }

  /**
   * The server writes its own idea of its address into `nextUri`; behind a proxy that can be another host or scheme.
   * We ask where we were told to, so credentials go nowhere else.
   */
  #resolve(uri: string): string {
    const { pathname, search } = new URL(uri, this.target)
    return `${this.target}${pathname}${search}`
  }

  #agentOf({ clientCert, clientKey }: Certificate): Agent {
    const current = this.#agent
    if (current !== undefined && current.of.clientCert === clientCert && current.of.clientKey === clientKey) return current.agent
    const { caCert, clientKeyPassphrase: passphrase } = this.#config.tls
    const agent = this.#newAgent({
      ...(caCert === undefined ? {} : { ca: caCert }),
      ...(clientCert === undefined || clientKey === undefined ? {} : { cert: clientCert, key: clientKey }),
      ...(passphrase === undefined ? {} : { passphrase: passphrase.expose() }),
      ...(this.#config.tls.serverName === undefined ? {} : { servername: this.#config.tls.serverName }),
    })
    this.#agent = { of: { clientCert, clientKey }, agent }
    if (current !== undefined) {
      this.#draining.add(current.agent)
      void current.agent.close().finally(() => this.#draining.delete(current.agent))
    }
    return agent
  }

  #agentOfStores(): Agent {
    const { caCert } = this.#config.tls
    return (this.#storeAgent ??= this.#newAgent(caCert === undefined ? {} : { ca: [...rootCertificates, caCert] }))
  }

  #newAgent(tls: object): Agent {
    const { connections, requestTimeoutMs, connectTimeoutMs } = this.#config
    return new Agent({
      connections,
      headersTimeout: requestTimeoutMs,
      bodyTimeout: requestTimeoutMs,
      connect: { timeout: connectTimeoutMs, rejectUnauthorized: this.#config.tls.verify, ...tls },
    })
  }
}

/** How long an exit may take for it. */
const AT_EXIT_MS = 3_000

const CANCEL_SCRIPT = `const { urls, options } = JSON.parse(require('node:fs').readFileSync(0, 'utf8'))
for (const url of urls) {
  const { request } = require(url.startsWith('https:') ? 'node:https' : 'node:http')
  request(url, { ...options, method: 'DELETE', agent: false }, (answer) => answer.resume()).on('error', () => {}).end()
}`

const isSame = (one: TrinoLogin, other: TrinoLogin): boolean =>
  one.user === other.user &&
  one.password === other.password &&
  one.token === other.token &&
  one.clientCert === other.clientCert &&
  one.clientKey === other.clientKey

function authorization({ user, password, token }: TrinoLogin, config: TrinoConfig): Record<string, string> {
  // A proxy's error page may show the headers it was sent; a provider of somebody else has told nobody what is secret.
  if (token !== undefined) {
    registerSecretValue(token)
    return { Authorization: `Bearer ${token}` }
  }
  if (password === undefined) return {}
  const pair = Buffer.from(`${user ?? config.user}:${password}`).toString('base64')
  registerSecretValue(pair)
  return { Authorization: `Basic ${pair}` }
}

function retryAfter({ headers }: TransportReply): number | undefined {
  const value = headers['retry-after']
  return parseRetryAfter(typeof value === 'string' ? value : value?.[0])
}
