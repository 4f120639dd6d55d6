import { readFile } from 'node:fs/promises'
import { resolve as resolvePath } from 'node:path'
import { networkSteps } from '@common-handlers/connections/check'
import {
  type CallOptions,
  type CheckResult,
  type Closable,
  type CloseOptions,
  HandlerError,
  Lifecycle,
  retry,
  runCheck,
  withDeadline,
} from '@common-handlers/core'
import { type Client, createClientAsync, type IHttpClient, WSSecurity } from 'soap'
import type { SoapConfig } from './config.ts'
import { fileUnreadable, operationUnknown, placeOf, SOAP, toSoapError, wsdlUnusable } from './errors.ts'
import { ask, type SoapAnswer } from './transport.ts'

/** An element: by its type in the description. What is nil, or empty and no text, is null. */
export type SoapValue = string | number | bigint | boolean | null | Uint8Array | SoapRecord | readonly SoapValue[]

/** An element with others in it; those that may stand there more than once are lists. */
export interface SoapRecord {
  readonly [name: string]: SoapValue
}

export interface SoapCallOptions extends CallOptions {
  /** True when doing it twice is the same as doing it once. Default false: a call that may have been made is not made again. */
  readonly idempotent?: boolean | undefined
}

/** The parts of the driver's request that are used here. */
interface Asked {
  readonly signal?: AbortSignal
  readonly operation?: string
}

/** A service by its description. The description is read with the first call. */
export class SoapClient implements Closable {
  readonly #config: SoapConfig
  readonly #life: Lifecycle
  readonly #origins: ReadonlySet<string>
  #client: Promise<Client> | undefined

  constructor(config: SoapConfig) {
    this.#config = config
    this.#life = new Lifecycle('SoapClient', SOAP, async () => undefined)
    const { wsdlUrl, endpoint } = config
    this.#origins = new Set([wsdlUrl, endpoint].flatMap((url) => (url !== undefined && isUrl(url) ? [new URL(url).origin] : [])))
  }

  /** The description, without its query. */
  get target(): string {
    return placeOf(this.#config.wsdlUrl).address
  }

  /** Reads the description; implied by the first call. */
  connect(options?: CallOptions): Promise<void> {
    return this.#run(options, 'reading the description', async (signal) => {
      await this.#described(signal)
    })
  }

  /** The operations of the service, in alphabetical order. */
  operations(options?: CallOptions): Promise<readonly string[]> {
    return this.#run(options, 'reading the description', async (signal) => operationsOf(await this.#described(signal)))
  }

  /** Calls an operation. Arguments are elements by their names; a bigint, or a text, keeps its digits. */
  call(operation: string, args: Readonly<Record<string, unknown>> = {}, options: SoapCallOptions = {}): Promise<SoapRecord> {
    return this.#run(
      options,
      `calling ${operation}`,
      async (signal) => {
        const client = await this.#described(signal)
        const known = operationsOf(client)
        if (!known.includes(operation)) throw operationUnknown(operation, placeOf(this.#config.wsdlUrl), known)
        return await invoke(client, operation, args, signal, placeOf(this.#config.endpoint ?? this.#config.wsdlUrl, operation))
      },
      // Without a word on it a call is made once; the description may be read as often as it takes.
      options.idempotent ?? false,
    )
  }

  /** Looks at the network and reads the description. Operations have effects: none is called. */
  check(options?: CallOptions): Promise<CheckResult> {
    const { wsdlUrl, endpoint, ca } = this.#config
    const signal = options?.signal ?? new AbortController().signal
    const urls = [
      ...new Set([wsdlUrl, endpoint].flatMap((url) => (url !== undefined && isUrl(url) ? [new URL(url).origin] : []))),
    ]
    const network = urls.flatMap((text) => {
      const { hostname: host, port, protocol } = new URL(text)
      const isSecure = protocol === 'https:'
      const number = port === '' ? (isSecure ? 443 : 80) : Number(port)
      return networkSteps({ host, port: number, signal, ...(isSecure ? { tls: { ca } } : {}) })
    })
    const read = async (): Promise<string> => {
      const known = await this.operations({ signal })
      return `${known.length} ${known.length === 1 ? 'operation' : 'operations'}: ${known.slice(0, 10).join(', ')}`
    }
    return runCheck(this.target, [...network, { name: 'read the description', run: read }], signal)
  }

  close(options?: CloseOptions): Promise<void> {
    return this.#life.close(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** The time limit of the caller is that of all tries together; each has that of the configuration. */
  #run<T>(
    options: CallOptions | undefined,
    action: string,
    work: (signal: AbortSignal) => Promise<T>,
    idempotent = true,
  ): Promise<T> {
    const { timeoutMs, attempts, retryBudgetMs: budgetMs } = this.#config
    return this.#life.run(options?.signal, (alive) =>
      withDeadline({ ...options, signal: alive }, { prefix: SOAP, action }, ({ signal }) =>
        retry(() => withDeadline({ signal, timeoutMs }, { prefix: SOAP, action }, (limit) => work(limit.signal)), {
          signal,
          idempotent,
          policy: { attempts, budgetMs },
        }),
      ),
    )
  }

  /** Read once; calls that come while it is read for the first time read it for themselves. */
  async #described(signal: AbortSignal): Promise<Client> {
    if (this.#client !== undefined) return this.#client
    const client = this.#describe(signal)
    const made = await client
    this.#client ??= client
    return made
  }

  async #describe(signal: AbortSignal): Promise<Client> {
    const { wsdlUrl, endpoint, username, password, login } = this.#config
    const place = placeOf(wsdlUrl)
    const file = isUrl(wsdlUrl) ? undefined : resolvePath(wsdlUrl)
    try {
      if (file !== undefined) await readFile(file, { signal })
    } catch (error) {
      signal.throwIfAborted()
      throw fileUnreadable(place, error)
    }
    try {
      const client = await createClientAsync(file ?? wsdlUrl, {
        httpClient: this.#transport(),
        wsdl_options: { signal },
        disableCache: true,
        customDeserializer: exact,
        handleNilAsNull: true,
        // Blanks at the ends of a text are a part of it.
        preserveWhitespace: true,
        ...(endpoint === undefined ? {} : { endpoint }),
      })
      if (operationsOf(client).length === 0) throw wsdlUnusable(place, 'it has no operations')
      if (login !== 'basic' && username !== undefined && password !== undefined) {
        const passwordType = login === 'ws-security-digest' ? 'PasswordDigest' : 'PasswordText'
        client.setSecurity(
          new WSSecurity(username, password.expose(), { passwordType, hasTimeStamp: true, mustUnderstand: true }),
        )
      }
      return client
    } catch (error) {
      signal.throwIfAborted()
      if (HandlerError.is(error)) throw error
      throw wsdlUnusable(place, error instanceof Error ? error.message.split('\n', 1).join('').slice(0, 300) : 'it is no XML')
    }
  }

  /** How the driver asks. Its own way holds the request, login and all, on its errors. */
  #transport(): IHttpClient {
    const request = (
      url: string,
      body: string | null,
      tell: (error: unknown, response?: unknown, text?: string) => void,
      headers: Readonly<Record<string, string>> = {},
      asked: Asked = {},
    ): void => {
      const { signal = this.#life.signal, operation } = asked
      const answered = ({ status, text }: SoapAnswer): void => tell(null, { status, headers: {} }, text)
      ask(this.#config, this.#origins, { url, body: body ?? undefined, headers, operation, signal })
        // What the driver throws of an answer is told to whoever waits for it, too.
        .then(answered)
        .catch(tell)
    }
    return { request } as unknown as IHttpClient
  }
}

const isUrl = (text: string): boolean => /^https?:\/\//i.test(text)

/** The operations of all ports, which the driver puts on its client by their names. */
function operationsOf(client: Client): string[] {
  const services = client.describe() as Readonly<Record<string, Readonly<Record<string, Readonly<Record<string, unknown>>>>>>
  const ports = Object.values(services ?? {}).flatMap((service) => Object.values(service))
  return [...new Set(ports.flatMap((port) => Object.keys(port)))].toSorted()
}

type Method = (args: object, callback: (error: unknown, result: SoapRecord | null | undefined) => void, options: Asked) => void

async function invoke(
  client: Client,
  operation: string,
  args: object,
  signal: AbortSignal,
  place: ReturnType<typeof placeOf>,
): Promise<SoapRecord> {
  const { promise, resolve, reject } = Promise.withResolvers<SoapRecord>()
  const method = client[operation] as Method
  try {
    method(args, (error, result) => (error === null ? resolve(result ?? {}) : reject(error)), { signal, operation })
    return await promise
  } catch (error) {
    signal.throwIfAborted()
    throw toSoapError(error, place)
  } finally {
    // It keeps the last answer, and the last request with its token.
    delete client.lastResponse
    delete client.lastRequest
  }
}

const text = (value: string): string => value.trim()
const integer = (value: string): bigint => BigInt(value.trim().replace(/^\+/, ''))
const small = (value: string): number => Number(value)

/** XML Schema 1.0 part 2 section 3: what a double holds is a number, longer integers are bigint, the rest is as it was sent. */
const exact: Readonly<Record<string, (value: string) => SoapValue>> = {
  decimal: text,
  dateTime: text,
  date: text,
  time: text,
  duration: text,
  ...Object.fromEntries(['byte', 'short', 'int', 'unsignedByte', 'unsignedShort', 'unsignedInt'].map((type) => [type, small])),
  ...Object.fromEntries(
    ['long', 'unsignedLong', 'integer', 'positiveInteger', 'negativeInteger', 'nonNegativeInteger', 'nonPositiveInteger'].map(
      (type) => [type, integer],
    ),
  ),
  float: (value) => double(value.trim()),
  double: (value) => double(value.trim()),
  base64Binary: (value) => new Uint8Array(Buffer.from(value, 'base64')),
  hexBinary: (value) => new Uint8Array(Buffer.from(value.trim(), 'hex')),
}

const double = (value: string): number => (value === 'INF' ? Infinity : value === '-INF' ? -Infinity : Number(value))
