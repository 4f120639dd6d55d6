import { createServer, request as httpRequest, type IncomingMessage, type Server } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'

/** One request as it passes the proxy. */
export interface SeenRequest {
  readonly method: string
  /** Path and query, as sent. */
  readonly url: string
  readonly headers: IncomingMessage['headers']
  /** What the server answered; 0 while it has not, or when the answer came from the proxy. */
  status: number
}

/** What to do with a request instead of passing it through. */
export type Fault =
  /** Passes the answer's head and so many bytes of its body, then breaks the connection. */
  | { readonly cutAnswerAfter: number }
  /** Passes so many bytes of the answer's body, then falls silent. */
  | { readonly stallAnswerAfter: number }
  /** Changes one bit of the body that the server answers with. */
  | { readonly corruptAnswer: true }
  /** Lets the server do the work and loses its answer. */
  | { readonly loseAnswer: true }
  /** Takes the request and never answers; the server hears nothing. */
  | { readonly ignore: true }
  /** Answers itself, with no body where there is no code; the server hears nothing. */
  | {
      readonly status: number
      readonly code: string
      readonly headers?: Readonly<Record<string, string>>
      readonly body?: string
    }

/** A proxy in front of a real S3 server that breaks what a test tells it to break. */
export class S3Proxy {
  readonly #target: URL
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  readonly seen: SeenRequest[] = []
  /** Asked for each request; undefined lets it pass. */
  fault: (request: SeenRequest) => Fault | undefined = () => undefined
  /** What a request waits for before it is passed on, so that a test can do something in between. */
  hold: () => Promise<unknown> | undefined = () => undefined
  #port = 0

  constructor(endpoint: string) {
    this.#target = new URL(endpoint)
    this.#server = createServer((incoming, outgoing) => {
      const seen: SeenRequest = { method: incoming.method ?? '', url: incoming.url ?? '', headers: incoming.headers, status: 0 }
      this.seen.push(seen)
      const fault = this.fault(seen)
      if (fault !== undefined && 'ignore' in fault) {
        incoming.resume()
        return
      }
      if (fault !== undefined && 'status' in fault) {
        incoming.resume()
        incoming.once('end', () => {
          outgoing.writeHead(fault.status, { 'content-type': 'application/xml', ...fault.headers })
          const { code } = fault
          outgoing.end(
            code === ''
              ? (fault.body ?? '')
              : `<?xml version="1.0"?><Error><Code>${code}</Code><Message>made by the test</Message></Error>`,
          )
        })
        return
      }
      const { hostname, port } = this.#target
      const forwarded = httpRequest(
        { hostname, port, method: incoming.method, path: incoming.url, headers: incoming.headers },
        (answer) => {
          seen.status = answer.statusCode ?? 0
          if (fault !== undefined && 'loseAnswer' in fault) {
            answer.resume()
            answer.once('end', () => incoming.socket.destroy())
            return
          }
          outgoing.writeHead(answer.statusCode ?? 502, answer.headers)
          if (fault === undefined) {
            answer.pipe(outgoing)
            return
          }
          if ('corruptAnswer' in fault) {
            let done = false
            answer.on('data', (chunk: Buffer) => {
              if (!done) chunk[0] = (chunk[0] ?? 0) ^ 1
              done = true
              outgoing.write(chunk)
            })
            answer.once('end', () => outgoing.end())
            return
          }
          let left = 'cutAnswerAfter' in fault ? fault.cutAnswerAfter : fault.stallAnswerAfter
          answer.on('data', (chunk: Buffer) => {
            if (left > 0) outgoing.write(chunk.subarray(0, left))
            left -= chunk.length
            if (left > 0) return
            answer.destroy()
            if ('cutAnswerAfter' in fault) setTimeout(() => incoming.socket.destroy(), 50)
          })
        },
      )
      forwarded.on('error', () => incoming.socket.destroy())
      outgoing.on('close', () => forwarded.destroy())
      void Promise.resolve(this.hold()).then(() => incoming.pipe(forwarded))
    })
    this.#server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket)
      socket.on('error', () => undefined)
      socket.once('close', () => this.#sockets.delete(socket))
    })
  }

  get endpoint(): string {
    return `http://127.0.0.1:${this.#port}`
  }

  /** On a free port; after {@link stop}, on the same one again. */
  async start(): Promise<this> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject)
      this.#server.listen(this.#port, '127.0.0.1', resolve)
    })
    this.#port = (this.#server.address() as AddressInfo).port
    return this
  }

  /** Breaks every connection and refuses new ones. */
  async stop(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()))
    for (const socket of this.#sockets) socket.destroy()
    await closed
  }
}
