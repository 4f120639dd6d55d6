import { readdir, readFile } from 'node:fs/promises'
import { Agent as HttpAgent, type IncomingHttpHeaders, request as httpRequest, type RequestOptions } from 'node:http'
import { Agent as HttpsAgent, type AgentOptions, request as httpsRequest } from 'node:https'
import { join } from 'node:path'
import { CapacityError, ConfigError, type Secret, untilAborted } from '@common-handlers/core'
import type { VaultTlsConfig } from './config.ts'

/** One request as it goes over the wire. */
export interface HttpRequest {
  readonly method: string
  readonly url: URL
  readonly headers: Readonly<Record<string, string>>
  readonly body?: string | undefined
  readonly signal: AbortSignal
}

export interface HttpAnswer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly text: string
}

/** Twice what the server takes in one request by default (`max_request_size`, 32 MiB): more is not an answer of a vault. */
const MAX_ANSWER_BYTES = 64 * 1024 * 1024

/** The way to the server, where it is not a straight one. */
export interface Route {
  readonly socketPath?: string | undefined
  readonly proxy?: Secret | undefined
}

/** node:http and node:https with kept connections. One transport speaks with one server. */
export class HttpTransport {
  readonly #tls: VaultTlsConfig
  readonly #socketPath: string | undefined
  readonly #agentOptions: AgentOptions
  readonly #http: HttpAgent
  #https: Promise<HttpsAgent> | undefined

  constructor(tls: VaultTlsConfig, route: Route = {}) {
    this.#tls = tls
    this.#socketPath = route.socketPath
    this.#agentOptions = { keepAlive: true, ...(route.proxy === undefined ? {} : throughProxy(route.proxy)) }
    this.#http = new HttpAgent(this.#agentOptions)
  }

  /** The answer, whatever its status. Rejects with the driver's own error, or the reason of the signal. */
  async send(request: HttpRequest): Promise<HttpAnswer> {
    const secure = request.url.protocol === 'https:'
    const options: RequestOptions = {
      method: request.method,
      headers: {
        ...request.headers,
        ...(request.body === undefined ? {} : { 'content-length': String(Buffer.byteLength(request.body)) }),
      },
      agent: secure ? await untilAborted(this.#secureAgent(), request.signal) : this.#http,
      ...(this.#socketPath === undefined ? {} : { socketPath: this.#socketPath }),
    }
    request.signal.throwIfAborted()
    return new Promise((resolve, reject) => {
      const outgoing = (secure ? httpsRequest : httpRequest)(request.url, options, (incoming) => {
        const read = async (): Promise<HttpAnswer> => {
          const chunks: Buffer[] = []
          let size = 0
          for await (const chunk of incoming) {
            size += chunk.length
            if (size > MAX_ANSWER_BYTES) throw tooLarge()
            chunks.push(chunk)
          }
          return { status: incoming.statusCode ?? 0, headers: incoming.headers, text: Buffer.concat(chunks).toString('utf8') }
        }
        read().then(resolve, fail)
      })
      const abort = (): void => {
        outgoing.destroy()
        reject(request.signal.reason as Error)
      }
      const fail = (error: Error): void => {
        outgoing.destroy()
        reject(error)
      }
      request.signal.addEventListener('abort', abort, { once: true })
      outgoing.once('close', () => request.signal.removeEventListener('abort', abort))
      // For good, not once: a destroyed request may report more than one error.
      outgoing.on('error', fail)
      outgoing.end(request.body)
    })
  }

  /** Drops the kept connections. */
  close(): void {
    this.#http.destroy()
    // Files that could not be read have been reported to the call that needed them.
    void this.#https?.then(
      (agent) => agent.destroy(),
      () => undefined,
    )
  }

  async #secureAgent(): Promise<HttpsAgent> {
    this.#https ??= readTlsFiles(this.#tls).then((tls) => new HttpsAgent({ ...this.#agentOptions, ...tls }))
    try {
      return await this.#https
    } catch (error) {
      this.#https = undefined
      throw error
    }
  }
}

/** Node's agents speak with proxies from 22.21 and 24.5 on. An older one would go past the proxy without a word. */
function throughProxy(proxy: Secret): AgentOptions {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  if (major < 22 || (major === 22 && minor < 21) || major === 23 || (major === 24 && minor < 5)) {
    throw new ConfigError(`Node ${process.versions.node} cannot use a proxy; it takes 22.21 or 24.5`, {
      code: 'VAULT_CONFIG_INVALID',
    })
  }
  const address = proxy.expose()
  return { proxyEnv: { HTTP_PROXY: address, HTTPS_PROXY: address } }
}

function tooLarge(): CapacityError {
  return new CapacityError(`the answer is larger than ${MAX_ANSWER_BYTES} bytes`, { code: 'VAULT_ANSWER_TOO_LARGE' })
}

async function readTlsFiles(tls: VaultTlsConfig): Promise<AgentOptions> {
  const ca: string[] = []
  if (tls.caFile !== undefined) ca.push(await readPem(tls.caFile))
  if (tls.caDirectory !== undefined) ca.push(...(await readDirectory(tls.caDirectory)))
  return {
    rejectUnauthorized: tls.verify,
    ...(ca.length > 0 ? { ca } : {}),
    ...(tls.clientCertificateFile === undefined ? {} : { cert: await readPem(tls.clientCertificateFile) }),
    ...(tls.clientKeyFile === undefined ? {} : { key: await readPem(tls.clientKeyFile) }),
    ...(tls.serverName === undefined ? {} : { servername: tls.serverName }),
  }
}

async function readDirectory(directory: string): Promise<string[]> {
  let names: string[]
  try {
    names = await readdir(directory)
  } catch (cause) {
    throw unreadable(directory, cause)
  }
  const files = await Promise.all(names.map((name) => readFile(join(directory, name), 'utf8').catch(() => '')))
  const certificates = files.filter((file) => file.includes('BEGIN CERTIFICATE'))
  if (certificates.length === 0) throw unreadable(directory, new Error('no certificate in it'))
  return certificates
}

async function readPem(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8')
  } catch (cause) {
    throw unreadable(file, cause)
  }
}

function unreadable(file: string, cause: unknown): ConfigError {
  return new ConfigError(`cannot use ${file} for TLS: ${(cause as Error).message}`, {
    code: 'VAULT_TLS_FILE',
    context: { file },
    cause,
  })
}
