import { hash } from 'node:crypto'
import type { Readable } from 'node:stream'
import { ConfigError } from '@common-handlers/core'
import type { S3Config } from './config.ts'
import type { SigningCredentials } from './credentials.ts'
import { amzDate, encodePath, encodeQuery, RequestSigner } from './sigv4.ts'
import { type BodyMemory, Wire, type WireHead, type WireOptions, type WireRequest } from './wire.ts'
import { textOf } from './xml.ts'

export interface HotRequest {
  readonly method: 'GET' | 'HEAD' | 'PUT' | 'POST' | 'DELETE'
  readonly bucket: string
  readonly key?: string | undefined
  readonly query?: Readonly<Record<string, string | number | undefined>> | undefined
  /** Names in lower case. */
  readonly headers?: Readonly<Record<string, string>> | undefined
  readonly body?: Uint8Array | undefined
}

/** The server takes clocks that are up to 15 minutes off; this is near enough. */
const TOLERATED_SKEW_MS = 5 * 60_000

const EMPTY_SHA256 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'

/** Where requests that the SDK makes go, too. */
export function endpointOf({ endpoint, region }: S3Config): string {
  return endpoint ?? `https://s3.${region}.${region.startsWith('cn-') ? 'amazonaws.com.cn' : 'amazonaws.com'}`
}

/**
 * The requests that transfers are made of, without the SDK: it takes a millisecond of CPU for each, most of it in its
 * middleware. Signed here, sent over {@link Wire}. Errors have the shape of the SDK's, which errors.ts maps.
 */
export class Transport {
  #config: S3Config
  readonly #endpoint: URL
  readonly #base: string
  readonly #signer: RequestSigner
  /** One for each host: with `bucket.host`, a request to another bucket goes to another one. */
  readonly #wires = new Map<string, Wire>()
  #clockOffsetMs = 0

  constructor(config: S3Config) {
    this.#config = config
    this.#endpoint = new URL(endpointOf(config))
    this.#base = this.#endpoint.pathname.replace(/\/+$/, '')
    this.#signer = new RequestSigner(config.region, 's3')
  }

  /** From the next request on. The endpoint and the region stay. */
  configure(config: S3Config): void {
    this.#config = config
  }

  get #signsBodies(): boolean {
    const { signPayload } = this.#config
    return signPayload === 'always' || (signPayload === 'http' && this.#endpoint.protocol === 'http:')
  }

  /** What the server's clock is ahead of ours, as far as it matters; requests are signed by its time. */
  get clockOffsetMs(): number {
    return this.#clockOffsetMs
  }

  /** Takes the `Date` of an answer for the time, unless ours is near enough. */
  correctClock(date: string | undefined): void {
    const offset = Date.parse(date ?? '') - Date.now()
    if (Math.abs(offset - this.#clockOffsetMs) > TOLERATED_SKEW_MS) this.#clockOffsetMs = offset
  }

  get connections(): number {
    return [...this.#wires.values()].reduce((sum, wire) => sum + wire.connections, 0)
  }

  async collect(
    request: HotRequest,
    credentials: SigningCredentials,
    options: WireOptions,
  ): Promise<WireHead & { readonly body: Buffer }> {
    const { wire, made } = this.#prepare(request, credentials)
    const answer = await wire.collect(made, options)
    if (answer.status > 299) throw answerError(answer, answer.body)
    return answer
  }

  async open(
    request: HotRequest,
    credentials: SigningCredentials,
    options: WireOptions,
  ): Promise<WireHead & { readonly body: Readable }> {
    const { wire, made } = this.#prepare(request, credentials)
    const { status, headers, body } = await wire.open(made, options)
    if (body instanceof Uint8Array) throw answerError({ status, headers }, body)
    return { status, headers, body }
  }

  async fill(
    request: HotRequest,
    credentials: SigningCredentials,
    options: WireOptions,
    place: (head: WireHead, resume: () => void) => BodyMemory,
  ): Promise<WireHead> {
    const { wire, made } = this.#prepare(request, credentials)
    const answer = await wire.readInto(made, options, place)
    if (answer.status > 299) throw answerError(answer, answer.body)
    return answer
  }

  /** Where a bucket or an object is. The path is encoded. */
  address(bucket: string, key?: string): { readonly protocol: string; readonly host: string; readonly path: string } {
    const { protocol } = this.#endpoint
    // A certificate for *.host does not cover a bucket with a dot in its name; some old names are no part of any host.
    const asHost = protocol === 'https:' ? /^[a-z0-9-]+$/ : /^[a-z0-9.-]+$/
    const asPath = (this.#config.forcePathStyle ?? this.#config.endpoint !== undefined) || !asHost.test(bucket)
    const host = asPath ? this.#endpoint.host : `${bucket}.${this.#endpoint.host}`
    const path = `${this.#base}/${encodePath(asPath ? (key === undefined ? bucket : `${bucket}/${key}`) : (key ?? ''))}`
    return { protocol, host, path }
  }

  destroy(): void {
    for (const wire of this.#wires.values()) wire.destroy()
  }

  #prepare(request: HotRequest, credentials: SigningCredentials): { readonly wire: Wire; readonly made: WireRequest } {
    const { method, bucket, key, body } = request
    const { host, path } = this.address(bucket, key)
    const query = request.query === undefined ? '' : encodeQuery(request.query)
    const payloadHash =
      body === undefined || body.byteLength === 0 ? EMPTY_SHA256 : this.#signsBodies ? hash('sha256', body) : 'UNSIGNED-PAYLOAD'
    const headers: Record<string, string> = {
      ...request.headers,
      host,
      'x-amz-content-sha256': payloadHash,
      'x-amz-date': amzDate(new Date(Date.now() + this.#clockOffsetMs)),
    }
    if (credentials.sessionToken !== undefined) headers['x-amz-security-token'] = credentials.sessionToken
    for (const name in headers) if (UNFIT_FOR_HEADER.test(headers[name] ?? '')) throw unfitHeader(name)
    if (UNFIT_FOR_HEADER.test(credentials.accessKeyId)) throw unfitHeader('authorization')
    headers['authorization'] = this.#signer.authorization({ method, path, query, headers, payloadHash }, credentials)
    if (body !== undefined || method === 'PUT' || method === 'POST') headers['content-length'] = String(body?.byteLength ?? 0)
    return { wire: this.#wire(host), made: { method, target: query === '' ? path : `${path}?${query}`, headers, body } }
  }

  #wire(host: string): Wire {
    let wire = this.#wires.get(host)
    if (wire === undefined) {
      const { hostname, port, protocol } = new URL(`${this.#endpoint.protocol}//${host}`)
      const tls = protocol === 'https:'
      wire = new Wire({
        host: hostname.replace(/^\[|\]$/g, ''),
        port: port === '' ? (tls ? 443 : 80) : Number(port),
        tls,
        connectTimeoutMs: this.#config.connectTimeoutMs,
      })
      this.#wires.set(host, wire)
    }
    return wire
  }
}

/** A line break would begin another header. */
const UNFIT_FOR_HEADER = /[^\t\x20-\x7e\x80-\xff]/

/** Without its value, which may be a secret. */
function unfitHeader(name: string): ConfigError {
  return new ConfigError(`what is given for the header ${name} holds a line break, or something else that it cannot carry`, {
    code: 'S3_OPTIONS_INVALID',
    context: { name },
  })
}

/** An answer that reports an error, in the shape of the SDK's exceptions. */
export function answerError({ status, headers }: WireHead, body: Uint8Array): Error {
  const xml = Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString()
  const error = new Error(textOf(xml, 'Message') ?? `HTTP ${status}`)
  error.name = textOf(xml, 'Code') ?? 'UnknownError'
  return Object.assign(error, {
    $metadata: { httpStatusCode: status, requestId: headers['x-amz-request-id'] ?? textOf(xml, 'RequestId') },
    $response: { statusCode: status, headers },
  })
}
