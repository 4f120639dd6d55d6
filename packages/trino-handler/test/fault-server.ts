import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'

/** Answers one request. */
export type Answer = (response: ServerResponse, request: IncomingMessage) => void

/**
 * Not Trino: an HTTP server that plays a script, for what no server can be made to do on time (a proxy's 502, a cut
 * in the middle of an answer, silence). Everything else is tested on the real one.
 */
export class FaultServer implements AsyncDisposable {
  readonly requests: {
    readonly method: string
    readonly path: string
    readonly body: string
    readonly headers: IncomingMessage['headers']
  }[] = []
  readonly #server: Server
  /** Answers by path, for what is asked for in no order. */
  readonly #byPath = new Map<string, Answer[]>()
  readonly #script: Answer[]

  private constructor(script: Answer[]) {
    this.#script = script
    this.#server = createServer((request, response) => {
      void this.#answer(request, response)
    })
  }

  static async playing(...script: Answer[]): Promise<FaultServer> {
    const server = new FaultServer(script)
    await new Promise<void>((resolve) => server.#server.listen(0, '127.0.0.1', resolve))
    return server
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await text(request)
    const { method = '', url = '', headers } = request
    this.requests.push({ method, path: url, body, headers })
    const own = this.#byPath.get(new URL(url, 'http://x').pathname)?.shift()
    if (own !== undefined) {
      own(response, request)
      return
    }
    const next: Answer = method === 'DELETE' ? status(204) : (this.#script.shift() ?? status(500, 'the script is at its end'))
    next(response, request)
  }

  answering(byPath: Readonly<Record<string, Answer[]>>): void {
    for (const [path, answers] of Object.entries(byPath)) this.#byPath.set(path, answers)
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  /** Methods and paths, in order. */
  get log(): string[] {
    return this.requests.map(({ method, path }) => `${method} ${path}`)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }
}

const columns = [{ name: 'n', type: 'bigint', typeSignature: { rawType: 'bigint', arguments: [] } }]

export const status =
  (code: number, body = '', headers: Record<string, string> = {}): Answer =>
  (response) =>
    void response.writeHead(code, headers).end(body)

/** A page of the protocol. `next` is a path, or undefined for the last page. */
export const page =
  (next: string | undefined, rows?: readonly (readonly string[])[], more: object = {}): Answer =>
  (response, request) => {
    const data =
      rows === undefined
        ? ''
        : `,"columns":${JSON.stringify(columns)},"data":[${rows.map((row) => `[${row.join(',')}]`).join(',')}]`
    const rest = JSON.stringify({ id: 'q1', stats: { state: next === undefined ? 'FINISHED' : 'RUNNING' }, ...more }).slice(0, -1)
    const nextUri =
      next === undefined
        ? ''
        : `,"nextUri":${JSON.stringify(next.startsWith('http') ? next : `http://${request.headers.host}${next}`)}`
    response.writeHead(200, { 'content-type': 'application/json' }).end(`${rest}${nextUri}${data}}`)
  }

/** Closes the connection without an answer. */
export const cut: Answer = (response) => void response.destroy()

/** Closes the connection in the middle of an answer. */
export const cutMidway: Answer = (response) => {
  response.writeHead(200, { 'content-type': 'application/json', 'content-length': '1000' })
  response.write('{"id":"q1","stats":{"state":', () => response.destroy())
}

/** Never answers. */
export const silence: Answer = () => undefined

/** The same answer, later. */
export const delayed =
  (ms: number, answer: Answer): Answer =>
  (response, request) =>
    void setTimeout(() => answer(response, request), ms)
