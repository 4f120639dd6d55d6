import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'

export type Direction = 'to-client' | 'to-server'

/** A TCP proxy on loopback between a client and a server, which fails when it is told to. */
export interface FaultProxy extends AsyncDisposable {
  readonly host: '127.0.0.1'
  readonly port: number
  /** How many clients are connected now. */
  readonly connections: number
  /** Breaks all connections: by a reset, as a crash does, or politely by an end. New ones are served. */
  cut(how?: 'reset' | 'end'): void
  /** Breaks all connections and stops listening: the port refuses, as that of a server that is down. */
  refuse(): Promise<void>
  /** Listens again after {@link refuse}, on the same port. */
  accept(): Promise<void>
  /** Holds all bytes back, in both directions. Connections stay open and new ones are taken, as by a server that hangs. */
  stall(): void
  /** Lets the bytes flow again, held-back ones first. */
  resume(): void
  /**
   * All connections fall silent for good, and neither side learns what becomes of the other: as when a firewall forgot
   * them, or a host lost its power. New ones are served.
   */
  abandon(): void
  /**
   * From now on each connection ends after exactly that many more bytes in one direction, or with `once` only the first
   * that gets so far. `Infinity` lifts the limit.
   */
  limitBytes(bytes: number, options?: { readonly direction?: Direction; readonly once?: boolean }): void
  stop(): Promise<void>
}

/** Starts a proxy to a server, usually one of this machine. */
export async function startFaultProxy(target: { readonly host: string; readonly port: number }): Promise<FaultProxy> {
  const proxy = new Proxy(target)
  await proxy.accept()
  return proxy
}

interface Limit {
  bytes: number
  readonly direction: Direction
  readonly once: boolean
}

interface Link {
  readonly client: Socket
  readonly upstream: Socket
  left: number
}

class Proxy implements FaultProxy {
  readonly host = '127.0.0.1'
  readonly #target: { readonly host: string; readonly port: number }
  readonly #links = new Set<Link>()
  readonly #abandoned = new Set<Link>()
  #server: Server | undefined
  #port = 0
  #stalled = false
  #limit: Limit = { bytes: Infinity, direction: 'to-client', once: false }

  constructor(target: { readonly host: string; readonly port: number }) {
    this.#target = target
  }

  get port(): number {
    return this.#port
  }

  get connections(): number {
    return this.#links.size
  }

  cut(how: 'reset' | 'end' = 'reset'): void {
    for (const link of this.#links) this.#break(link, how)
  }

  async refuse(): Promise<void> {
    const server = this.#server
    this.#server = undefined
    const closed = new Promise<void>((resolve) => (server === undefined ? resolve() : server.close(() => resolve())))
    this.cut()
    for (const link of this.#abandoned) this.#break(link, 'reset')
    this.#abandoned.clear()
    await closed
  }

  async accept(): Promise<void> {
    if (this.#server !== undefined) return
    const server = createServer({ allowHalfOpen: true }, (client) => this.#join(client))
    this.#server = server
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(this.#port, this.host, resolve)
    })
    this.#port = (server.address() as AddressInfo).port
  }

  stall(): void {
    this.#stalled = true
    for (const { client, upstream } of this.#links) {
      client.pause()
      upstream.pause()
    }
  }

  resume(): void {
    this.#stalled = false
    for (const { client, upstream } of this.#links) {
      client.resume()
      upstream.resume()
    }
  }

  abandon(): void {
    for (const link of this.#links) {
      this.#abandoned.add(link)
      for (const socket of [link.client, link.upstream]) {
        socket.removeAllListeners()
        socket.on('error', () => undefined)
        socket.on('data', () => undefined)
        socket.resume()
      }
    }
    this.#links.clear()
  }

  limitBytes(bytes: number, options: { readonly direction?: Direction; readonly once?: boolean } = {}): void {
    this.#limit = { bytes, direction: options.direction ?? 'to-client', once: options.once ?? false }
    for (const link of this.#links) link.left = bytes
  }

  async stop(): Promise<void> {
    await this.refuse()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  #join(client: Socket): void {
    const upstream = connect({ ...this.#target, allowHalfOpen: true })
    const link: Link = { client, upstream, left: this.#limit.bytes }
    this.#links.add(link)
    this.#pump(link, client, upstream, 'to-server')
    this.#pump(link, upstream, client, 'to-client')
    for (const socket of [client, upstream]) {
      socket.setNoDelay(true)
      // The other side learns of a broken one as the broken one did.
      socket.once('error', () => this.#break(link, 'reset'))
      socket.once('close', () => {
        if (client.destroyed && upstream.destroyed) this.#links.delete(link)
      })
      if (this.#stalled) socket.pause()
    }
  }

  #pump(link: Link, from: Socket, to: Socket, direction: Direction): void {
    from.on('data', (chunk: Buffer) => {
      const limited = direction === this.#limit.direction
      const allowed = limited ? chunk.subarray(0, link.left) : chunk
      if (limited) link.left -= allowed.length
      if (limited && link.left <= 0) {
        if (this.#limit.once) this.limitBytes(Infinity)
        // A reset would take back bytes that the receiver has not read yet.
        to.end(allowed, () => this.#break(link, 'end'))
        from.pause()
      } else if (!to.write(allowed)) from.pause()
    })
    to.on('drain', () => {
      if (!this.#stalled) from.resume()
    })
    from.on('end', () => to.end())
  }

  #break(link: Link, how: 'reset' | 'end'): void {
    this.#links.delete(link)
    for (const socket of [link.client, link.upstream]) {
      if (how === 'reset') socket.resetAndDestroy()
      else socket.destroy()
    }
  }
}
