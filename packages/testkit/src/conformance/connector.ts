import { once } from 'node:events'
import { createServer } from 'node:net'
import { inspect } from 'node:util'
import { describe, expect, it } from 'vitest'
import { freePorts } from '../servers/ports.ts'

interface CallOptions {
  readonly signal?: AbortSignal
  readonly timeoutMs?: number
}

interface ItemLike {
  readonly key?: string | undefined
  readonly checksum: string
  readonly watermark?: string | undefined
  readonly lineage: { readonly protocol: string; readonly position: number }
}

interface ConnectorLike extends AsyncDisposable {
  connect(options?: CallOptions): Promise<void>
  fetchData(query: never, options?: CallOptions): Promise<{ readonly items: readonly ItemLike[] }>
  items(query: never, options?: CallOptions): AsyncIterableIterator<ItemLike>
  close(): Promise<void>
}

/** What `createConnections({ connectors: [yours], variables: {} })` gives. */
export interface ConnectionsLike {
  readonly protocols: readonly string[]
  createConnector(config: never, options?: never): Promise<ConnectorLike>
  testConnection(
    protocol: never,
    config?: never,
    options?: never,
  ): Promise<{ readonly ok: boolean; readonly steps: readonly { readonly error?: { readonly code: string } }[] }>
  explain(protocol: never, config?: never): Promise<readonly { readonly key: string; readonly value: unknown }[]>
  closeAllConnections(): Promise<void>
}

/** A connector under the suite. */
export interface ConnectorCase {
  readonly protocol: string
  readonly connections: ConnectionsLike
  /** Of the data contract: `ingestionResultSchema`. */
  readonly schema: { parse(value: unknown): unknown }
  /** The keys for a source that answers. */
  readonly config: object
  /** Gives `count` items, at least three, in the same order each time. */
  readonly query: unknown
  readonly count: number
  /** The query for what comes after an item; absent where the protocol knows no such thing. */
  readonly after?: (watermark: string) => unknown
  /** The same keys for another port of this machine; absent where there is no server. */
  readonly at?: (port: number) => object
  /** The same keys with a login that is refused. */
  readonly refused?: object
  /** Other keys for the same source, which gives the same items: another limit, another account. */
  readonly another?: object
  /** What may not be seen anywhere; part of `config`. */
  readonly secret?: string
}

const failure = async (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => {
      throw new Error('the call did not fail')
    },
    (error: unknown) => error,
  )

/** The contract of a connector, the same for all of them: how it is configured, tested, read from, stopped and closed. */
export function connectorConformance(title: string, connectorCase: ConnectorCase): void {
  const { protocol, connections, schema, config, count, after, at, refused, another, secret } = connectorCase
  const query = connectorCase.query as never
  const make = (given: object = config): Promise<ConnectorLike> => connections.createConnector({ protocol, ...given } as never)
  const test = (given: object, options: CallOptions = {}) =>
    connections.testConnection(protocol as never, given as never, options as never)
  const identities = (items: readonly ItemLike[]): unknown[] => items.map(({ key, checksum }) => key ?? checksum)

  describe(`${title} as a connector`, () => {
    it('is there by its protocol', () => {
      expect(connections.protocols).toContain(protocol)
    })

    it('refuses a key that it does not know, and says which', async () => {
      expect(await failure(make({ ...config, notAKey: 1 }))).toMatchObject({
        code: 'CONFIG_INVALID',
        message: expect.stringContaining('notAKey') as string,
      })
    })

    it('explains its configuration and shows no secret', async () => {
      const explained = await connections.explain(protocol as never, config as never)
      expect(explained.length).toBeGreaterThan(0)
      if (secret !== undefined) expect(JSON.stringify(explained)).not.toContain(secret)
    })

    it('is tested step by step', async () => {
      const result = await test(config)
      expect(result, JSON.stringify(result)).toMatchObject({ ok: true })
      expect(result.steps.length).toBeGreaterThan(1)
      if (secret !== undefined) expect(JSON.stringify(result)).not.toContain(secret)
    })

    it('fetches into the data contract, in the same order each time', async () => {
      await using connector = await make()
      const result = await connector.fetchData(query)
      expect(schema.parse(result)).toEqual(result)
      expect(result.items).toHaveLength(count)
      expect(result.items.map(({ lineage }) => [lineage.protocol, lineage.position])).toEqual(
        result.items.map((_, index) => [protocol, index]),
      )
      expect(new Set(identities(result.items)).size).toBe(count)
      expect(identities((await connector.fetchData(query)).items)).toEqual(identities(result.items))
      if (secret !== undefined) expect(inspect(result, { depth: 9 }) + inspect(connector, { depth: 9 })).not.toContain(secret)
    })

    it.each(after === undefined ? [] : [after])('goes on after any item', async (next) => {
      await using connector = await make()
      const { items } = await connector.fetchData(query)
      for (const index of [0, Math.floor(count / 2), count - 1]) {
        const watermark = items[index]?.watermark
        if (watermark === undefined) throw new Error(`item ${index} has no watermark`)
        const rest = await connector.fetchData(next(watermark) as never)
        expect(identities(rest.items)).toEqual(identities(items.slice(index + 1)))
      }
    })

    it('lets a loop be left, and is of use afterwards', async () => {
      await using connector = await make()
      for await (const { lineage } of connector.items(query)) if (lineage.position === 1) break
      expect((await connector.fetchData(query)).items).toHaveLength(count)
    })

    it('ends with its signal and the reason of that: before, and in the middle', async () => {
      await using connector = await make()
      const reason = new RangeError('changed my mind')
      expect(await failure(connector.fetchData(query, { signal: AbortSignal.abort(reason) }))).toBe(reason)
      const abort = new AbortController()
      const items = connector.items(query, { signal: abort.signal })
      await items.next()
      abort.abort(reason)
      expect(await failure(items.next())).toBe(reason)
      expect((await connector.fetchData(query)).items).toHaveLength(count)
    })

    it('closes as often as it is asked, also unused, and takes no call afterwards', async () => {
      expect(await (await make()).close()).toBeUndefined()
      const connector = await make()
      await connector.connect()
      await Promise.all([connector.close(), connector.close()])
      await connector[Symbol.asyncDispose]()
      expect(await failure(connector.fetchData(query))).toMatchObject({ code: 'CONNECTIONS_CLOSED' })
    })

    it('lives beside another of its kind', async () => {
      const own = { reuse: false } as never
      await using one = await connections.createConnector({ protocol, ...config } as never, own)
      const other = await connections.createConnector({ protocol, ...config } as never, own)
      await Promise.all([one.connect(), other.connect()])
      await other.close()
      expect((await one.fetchData(query)).items).toHaveLength(count)
    })

    it.each(another === undefined ? [] : [another])('serves two configurations side by side', async (given) => {
      await using two = await make(given)
      const one = await make()
      const [found, foundToo] = await Promise.all([one.fetchData(query), two.fetchData(query)])
      expect(identities(foundToo.items)).toEqual(identities(found.items))
      await one.close()
      expect((await two.fetchData(query)).items).toHaveLength(count)
    })

    it('is closed with all connections, and opened anew', async () => {
      await using connector = await make()
      await connector.fetchData(query)
      await connections.closeAllConnections()
      await using again = await make()
      expect((await again.fetchData(query)).items).toHaveLength(count)
    })

    it.each(refused === undefined ? [] : [refused])('says that its login is refused, and shows no secret', async (wrong) => {
      await using connector = await make(wrong)
      const error = await failure(connector.connect())
      expect(error).toMatchObject({ outcome: 'auth', retry: 'never' })
      expect((await test(wrong)).ok).toBe(false)
      for (const value of Object.values(wrong)) {
        const isSecret = typeof value === 'string' && !Object.values(config).includes(value)
        if (isSecret) expect(inspect(error, { depth: 9 })).not.toContain(value)
      }
    })
  })

  if (at === undefined) return
  describe(`${title} without a source that answers`, () => {
    it('says that nobody is there, in time', async () => {
      const [port = 0] = await freePorts(1)
      await using connector = await make(at(port))
      expect(await failure(connector.fetchData(query, { timeoutMs: 3000 }))).toMatchObject({
        outcome: expect.stringMatching(/^(connection|timeout)$/) as string,
      })
      const result = await test(at(port), { timeoutMs: 10_000 })
      expect(result.ok).toBe(false)
      expect(result.steps.at(-1)?.error?.code).toMatch(/^[A-Z0-9]+_[A-Z_]+$/)
    })

    it('ends a call to one that says nothing by its time-out, or by its signal with the reason', async () => {
      const server = createServer((socket) => socket.on('error', () => undefined)).listen(0, '127.0.0.1')
      await once(server, 'listening')
      const address = server.address()
      await using connector = await make(at(typeof address === 'object' && address !== null ? address.port : 0))
      try {
        expect(await failure(connector.fetchData(query, { timeoutMs: 300 }))).toMatchObject({ outcome: 'timeout' })
        const abort = new AbortController()
        const reason = new RangeError('changed my mind')
        setTimeout(() => abort.abort(reason), 100)
        expect(await failure(connector.fetchData(query, { signal: abort.signal }))).toBe(reason)
      } finally {
        server.close()
      }
    })
  })
}
