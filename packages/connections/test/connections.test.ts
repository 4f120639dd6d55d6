import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { type ConnectionsOptions, createConnections, ingestionResultSchema } from '@common-handlers/connections'
import { afterAll, beforeAll, describe, expect, expectTypeOf, it } from 'vitest'
import { type Counter, countingConnector } from './counting-connector.ts'

const setUp = (options: Omit<ConnectionsOptions, 'connectors'> = {}) => {
  const counting = countingConnector()
  return { counting, connections: createConnections({ connectors: [counting.counter], variables: {}, ...options }) }
}

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'connections-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

describe('the configuration', () => {
  it('is merged: defaults, file, environment, config, overrides', async () => {
    const file = join(folder, 'counter.yaml')
    await writeFile(file, 'protocol: counter\nhost: of-file\nsize: 1\n')
    const { connections } = setUp({ variables: { COUNTER_SIZE: '2' } })
    const opened = async (config = {}, sources = {}): Promise<unknown> =>
      (await connections.getConnection('counter', config, { file, defaults: { host: 'default', size: 9 }, ...sources })).config
    expect(await opened()).toEqual({ host: 'of-file', size: 2 })
    expect(await opened({ size: 4 })).toEqual({ host: 'of-file', size: 4 })
    expect(await opened({ size: 4 }, { overrides: { size: 5 } })).toEqual({ host: 'of-file', size: 5 })
  })

  it('may be a URL, with further keys as its parameters', async () => {
    const { connections } = setUp()
    const { config } = await connections.getConnection('counter', 'counter://:pass%20word@there?size=7')
    expect(config).toMatchObject({ host: 'there', size: 7 })
    await expect(connections.getConnection('counter', 'counter://there?sise=7')).rejects.toThrow('did you mean "size"?')
    await expect(connections.getConnection('counter', 'no url: s3cret-of-mine')).rejects.toMatchObject({
      code: 'CONNECTIONS_URL_INVALID',
      message: 'the URL given for "counter" cannot be used: it is not a URL',
    })
  })

  it('takes references to secrets, and explains each key without showing them', async () => {
    const { connections } = setUp({
      variables: { COUNTER_HOST: 'h', WORD: 'a very secret word' },
      resolvers: { vault: (path) => `value of ${path}` },
    })
    const explained = await connections.explain('counter', { password: 'env:WORD' })
    expect(explained).toEqual([
      { key: 'host', value: 'h', origin: 'environment COUNTER_HOST' },
      { key: 'password', value: 'env:WORD', origin: 'config' },
      { key: 'size', value: 3, origin: 'default' },
    ])
    const one = await connections.getConnection('counter', { password: 'vault:kv/app#password' })
    expect(one.config.password?.expose()).toBe('value of kv/app#password')
    expect(inspect(connections, { depth: 9, showHidden: true })).not.toContain('value of kv/app#password')
    expect(inspect(await connections.explain('counter', { password: 'in clear' }))).not.toContain('in clear')
  })

  it('that lacks a key names it', async () => {
    const { connections } = setUp()
    await expect(connections.getConnection('counter')).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining('host: missing') as string,
    })
  })
})

describe('the protocol', () => {
  it('gives its types', async () => {
    const { connections } = setUp()
    const opened = await connections.getConnection('counter', { host: 'h' })
    expectTypeOf(opened).toExtend<Counter & AsyncDisposable>()
    // @ts-expect-error no such key
    await expect(connections.getConnection('counter', { hots: 'h' })).rejects.toThrow('did you mean "host"?')
    // @ts-expect-error no such protocol
    await expect(connections.getConnection('clock')).rejects.toThrow(
      'there is no connector for "clock" here; there are: counter, http',
    )
  })

  it('may stand in the file, and must stand somewhere', async () => {
    const { connections } = setUp()
    const file = join(folder, 'whole.json')
    await writeFile(file, JSON.stringify({ protocol: 'counter', host: 'h' }))
    await using connector = await connections.createConnector({}, { file })
    expect(connector.protocol).toBe('counter')
    await writeFile(file, JSON.stringify({ host: 'h' }))
    await expect(connections.createConnector({}, { file })).rejects.toMatchObject({ code: 'CONNECTIONS_PROTOCOL_MISSING' })
  })

  it('has one connector', () => {
    const { counter } = countingConnector()
    expect(() => createConnections({ connectors: [counter, counter] })).toThrow('two connectors are registered for "counter"')
  })
})

describe('the cache', () => {
  it('opens once for all who ask at the same time, whatever the order of the keys', async () => {
    const { connections, counting } = setUp()
    const all = await Promise.all([
      connections.getConnection('counter', { host: 'h', size: 1 }),
      connections.getConnection('counter', { size: 1, host: 'h' }),
      connections.getConnection('counter', 'counter://h?size=1'),
    ])
    expect(counting.opened).toHaveLength(1)
    expect(all.map((one) => one.first())).toEqual([0, 0, 0])
    expect(connections.size).toBe(1)
  })

  it('tells configurations apart, secrets included', async () => {
    const { connections, counting } = setUp()
    for (const password of ['first password', 'second password', 'first password']) {
      await connections.getConnection('counter', { host: 'h', password })
    }
    expect(counting.opened.map(({ config }) => config.password?.expose())).toEqual(['first password', 'second password'])
  })

  it('takes a changed secret with the next call, and leaves the old connection to its users', async () => {
    let password = 'before rotation'
    const { connections, counting } = setUp({ resolvers: { vault: () => password }, idleMs: 1 })
    const config = { host: 'h', password: 'vault:db' }
    const before = await connections.getConnection('counter', config)
    password = 'after rotation'
    const after = await connections.getConnection('counter', config)
    expect([before, after].map((one) => one.config.password?.expose())).toEqual(['before rotation', 'after rotation'])
    await before.close()
    await expect.poll(() => counting.opened.map(({ closed }) => closed)).toEqual([1, 0])
  })

  it('closes what nobody uses after a while, and not before', async () => {
    const { connections, counting } = setUp({ idleMs: 20 })
    const one = await connections.getConnection('counter', { host: 'h' })
    const two = await connections.getConnection('counter', { host: 'h' })
    await one.close()
    await one.close()
    expect(() => one.first()).toThrow('was closed by its user')
    await new Promise((resolve) => setTimeout(resolve, 60))
    expect(counting.opened[0]?.closed).toBe(0)
    expect(two.first()).toBe(0)
    await two.close()
    await expect.poll(() => counting.opened[0]?.closed).toBe(1)
    expect(connections.size).toBe(0)
  })

  it('keeps no connection that could not be opened', async () => {
    const { connections } = setUp()
    await expect(connections.getConnection('counter', { host: 'nowhere' })).rejects.toThrow('nobody there')
    expect(connections.size).toBe(0)
  })

  it('gives one of its own with reuse: false, which ends with close()', async () => {
    const { connections, counting } = setUp()
    await connections.getConnection('counter', { host: 'h' })
    {
      await using own = await connections.getConnection('counter', { host: 'h' }, { reuse: false })
      expect(own.first()).toBe(0)
    }
    expect(counting.opened.map(({ closed }) => closed)).toEqual([0, 1])
  })

  it('lets one who waits give up without the others, and ends an opening that nobody waits for', async () => {
    const { connections, counting } = setUp()
    const gate = Promise.withResolvers<void>()
    counting.gate = gate.promise
    const [impatient, patient] = [new AbortController(), new AbortController()]
    const first = connections.getConnection('counter', { host: 'h' }, { signal: impatient.signal })
    const second = connections.getConnection('counter', { host: 'h' }, { signal: patient.signal })
    const third = connections.getConnection('counter', { host: 'h', size: 1 }, { timeoutMs: 5 })
    impatient.abort(new Error('no time'))
    await Promise.all([
      expect(first).rejects.toThrow('no time'),
      expect(third).rejects.toMatchObject({ code: 'CONNECTIONS_TIMEOUT' }),
    ])
    expect(counting.aborted).toHaveLength(1)
    gate.resolve()
    expect((await second).first()).toBe(0)
    await expect
      .poll(() => counting.opened.map(({ config, closed }) => `${config.size}: ${closed}`).toSorted())
      .toEqual(['1: 1', '3: 0'])
  })

  it('closes all, those being opened too, and waits for that; the next call opens anew', async () => {
    const { connections, counting } = setUp()
    await connections.getConnection('counter', { host: 'a' })
    const gate = Promise.withResolvers<void>()
    counting.gate = gate.promise
    const late = connections.getConnection('counter', { host: 'b' })
    await expect.poll(() => connections.size).toBe(2)
    let ended = false
    const closing = connections.closeAllConnections().then(() => (ended = true))
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(ended).toBe(false)
    gate.resolve()
    await closing
    await late
    expect(counting.opened.map(({ closed }) => closed)).toEqual([1, 1])
    await connections.getConnection('counter', { host: 'a' })
    expect(counting.opened).toHaveLength(3)
    await connections.closeAllConnections()
    await connections.closeAllConnections()
  })
})

describe('a test', () => {
  it('reports the configuration first', async () => {
    const { connections } = setUp()
    const steps = async (config: object): Promise<unknown> =>
      (await connections.testConnection('counter', config)).steps.map(({ name, ok, error }) => [name, ok, error?.code])
    expect(await steps({ host: 'h' })).toEqual([
      ['read the configuration', true, undefined],
      ['count', true, undefined],
    ])
    expect(await steps({})).toEqual([['read the configuration', false, 'CONFIG_INVALID']])
  })
})

describe('a connector', () => {
  it('fetches into the data contract', async () => {
    const { connections } = setUp()
    await using connector = await connections.createConnector({ protocol: 'counter', host: 'h' })
    const result = await connector.fetchData({ upTo: 3 })
    expect(ingestionResultSchema.parse(result)).toEqual(result)
    expect(result).toMatchObject({ protocol: 'counter', bytes: 3, watermark: '2' })
    expect(result.items.map(({ data }) => data)).toEqual([0, 1, 2])
  })

  it('gives items one at a time, and lets go when the loop is left', async () => {
    const { connections } = setUp()
    const connector = await connections.createConnector({ protocol: 'counter', host: 'h' })
    const seen: unknown[] = []
    for await (const { data } of connector.items({ upTo: Infinity })) {
      seen.push(data)
      if (seen.length === 4) break
    }
    expect(seen).toEqual([0, 1, 2, 3])
    await connector.close()
    await connector.close()
    await expect(connector.fetchData({ upTo: 1 })).rejects.toMatchObject({ code: 'CONNECTIONS_CLOSED' })
    await expect(connector.items({ upTo: 1 }).next()).rejects.toMatchObject({ code: 'CONNECTIONS_CLOSED' })
  })

  it('refuses more than it may gather', async () => {
    const { connections } = setUp()
    await using connector = await connections.createConnector({ protocol: 'counter', host: 'h' })
    await expect(connector.fetchData({ upTo: Infinity }, { maxBytes: 1000 })).rejects.toMatchObject({
      code: 'CONNECTIONS_RESULT_TOO_LARGE',
    })
  })

  it('ends with the signal, and with close()', async () => {
    const { connections } = setUp()
    await using connector = await connections.createConnector({ protocol: 'counter', host: 'h' })
    const abort = new AbortController()
    const items = connector.items({ upTo: Infinity }, { signal: abort.signal })
    await items.next()
    abort.abort(new Error('enough'))
    await expect(items.next()).rejects.toThrow('enough')
  })

  it('tries to connect again after it failed', async () => {
    const { connections, counting } = setUp()
    await using connector = await connections.createConnector({ protocol: 'counter', host: 'h' })
    counting.gate = Promise.reject(new Error('not yet'))
    await expect(connector.connect()).rejects.toThrow('not yet')
    counting.gate = Promise.resolve()
    await connector.connect()
    expect(counting.opened).toHaveLength(1)
  })

  it('gives its connection back and leaves it open for others', async () => {
    const { connections, counting } = setUp()
    const shared = await connections.getConnection('counter', { host: 'h' })
    const connector = await connections.createConnector({ protocol: 'counter', host: 'h' })
    await connector.connect()
    await connector.close()
    expect(counting.opened.map(({ closed }) => closed)).toEqual([0])
    expect(shared.first()).toBe(0)
  })
})
