import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { readdir } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { createConnections } from '@common-handlers/connections'
import { getNewprotocolClient, newprotocol, testNewprotocolConnection } from '@common-handlers/newprotocol'
import { startFaultProxy, readmeExample } from '@common-handlers/testkit'
import { afterAll, describe, expect, it } from 'vitest'
import { startNewprotocolServer } from './newprotocol-server.ts'

const root = join(import.meta.dirname, '..')
const server = await startNewprotocolServer(10_000)
const { port, username, password } = server
const config = { host: '127.0.0.1', port, username, password }
const query = { table: 'orders' }

afterAll(() => server[Symbol.asyncDispose]())

/** Waits until the server sees no client any more. */
async function nobodyThere(): Promise<void> {
  const end = performance.now() + 5_000
  while (server.connections > 0) {
    if (performance.now() > end) throw new Error(`${server.connections} connections are left on the server`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

describe('a client', () => {
  it('reads exact values, those of a URL too', async () => {
    const url = `newprotocol://${username}:${encodeURIComponent(password)}@127.0.0.1:${port}`
    await using client = await getNewprotocolClient(url)
    for await (const row of client.rows(query)) {
      expect(row).toEqual({ id: 9007199254740993n, data: { n: 1, name: 'Größe 1' } })
      break
    }
  })

  it('leaves nothing running on the server when a loop is left or aborted', async () => {
    await using client = await getNewprotocolClient(config)
    for await (const _row of client.rows(query)) break
    await nobodyThere()
    const abort = new AbortController()
    const rows = client.rows(query, { signal: abort.signal })
    await rows.next()
    abort.abort(new RangeError('changed my mind'))
    await expect(rows.next()).rejects.toThrow('changed my mind')
    await nobodyThere()
  })

  it('says that the server went away in the middle, and works again when it is back', async () => {
    await using proxy = await startFaultProxy({ host: '127.0.0.1', port })
    await using client = await getNewprotocolClient({ ...config, port: proxy.port })
    const read = async (): Promise<number> => {
      let count = 0
      for await (const _row of client.rows(query)) count += 1
      return count
    }
    proxy.limitBytes(50_000, { direction: 'to-client', once: true })
    await expect(read()).rejects.toMatchObject({ code: 'NEWPROTOCOL_CONNECTION_LOST', retry: 'if-idempotent' })
    expect(await read()).toBe(10_000)
  })

  it('waits for no answer longer than it is told to', async () => {
    await using proxy = await startFaultProxy({ host: '127.0.0.1', port })
    await using client = await getNewprotocolClient({ ...config, port: proxy.port, answerTimeoutMs: 200 })
    proxy.stall()
    await expect(client.connect()).rejects.toMatchObject({ code: 'NEWPROTOCOL_TIMEOUT', outcome: 'timeout' })
  })

  it('lets whoever reads take longer than the server may', async () => {
    await using client = await getNewprotocolClient({ ...config, answerTimeoutMs: 2_000 })
    let count = 0
    for await (const _row of client.rows(query)) {
      if (count === 0) await new Promise((resolve) => setTimeout(resolve, 2_500))
      count += 1
    }
    expect(count).toBe(10_000)
  })

  it('says that a table or a query cannot be used, and that something else is spoken there', async () => {
    await using client = await getNewprotocolClient(config)
    await expect(client.rows({ table: 'none' }).next()).rejects.toMatchObject({ code: 'NEWPROTOCOL_NOT_FOUND' })
    await expect(client.rows({ table: 'a b' }).next()).rejects.toMatchObject({ code: 'NEWPROTOCOL_QUERY_INVALID' })
    const wrong = client.rows({ ...query, watermark: 'yesterday' })
    await expect(wrong.next()).rejects.toMatchObject({ code: 'NEWPROTOCOL_QUERY_INVALID' })
    const other = createServer((socket) => socket.end('220 greetings\n')).listen(0, '127.0.0.1')
    await once(other, 'listening')
    await expect(getNewprotocolClient({ ...config, port: (other.address() as AddressInfo).port })).rejects.toMatchObject({
      code: 'NEWPROTOCOL_ANSWER_INVALID',
    })
    other.close()
  })
})

it('is tested step by step', async () => {
  const { steps } = await testNewprotocolConnection(config)
  expect(steps.map(({ name }) => name)).toEqual([
    'read the configuration',
    'find 127.0.0.1',
    `reach port ${port}`,
    `log in as ${username}`,
    'latency',
  ])
  expect(steps[3]?.detail).toBe('version 1.0')
})

it('has example files that its schema takes', async () => {
  const names = (await readdir(join(root, 'examples'))).filter((name) => /\.(json|yaml)$/.test(name))
  expect(names).toHaveLength(2)
  await using connections = createConnections({ connectors: [newprotocol], variables: {}, resolvers: { file: () => 'a secret' } })
  for (const name of names) {
    const explained = await connections.explain('newprotocol', {}, { file: join(root, 'examples', name) })
    expect(explained.find(({ key }) => key === 'host')?.value).toBe('server.example.com')
  }
})

it('the example of README.md', async () => {
  const code = await readmeExample(root)
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--conditions=@common-handlers/source', '--input-type=module-typescript', '-e', code],
    { cwd: root, env: { ...process.env, NEWPROTOCOL_PORT: String(port), NEWPROTOCOL_PASSWORD: password } },
  )
  expect(stdout).toBe(`9007199254740993 { n: 1, name: 'Größe 1' }\n`)
})
