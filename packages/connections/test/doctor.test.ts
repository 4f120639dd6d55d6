import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createConnections, readConnections } from '@common-handlers/connections'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

const connections = createConnections({ variables: { HTTP_TOKEN: 'of the environment' } })
let folder: string
let server: Server
let baseUrl: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'doctor-'))
  server = createServer((request, response) => {
    const { authorization } = request.headers
    if (request.url !== '/silent') response.writeHead(authorization === 'Bearer of the environment' ? 200 : 401).end()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
})
afterAll(async () => {
  server.closeAllConnections()
  server.close()
  await connections.closeAllConnections()
  await rm(folder, { recursive: true, force: true })
})

async function file(name: string, text: string): Promise<string> {
  await writeFile(join(folder, name), text)
  return join(folder, name)
}

describe('doctor', () => {
  it('says of each connection how far it came', async () => {
    const text = `
connections:
  good: { protocol: http, baseUrl: ${baseUrl} }
  refused: { protocol: http, baseUrl: ${baseUrl}, token: of nobody }
  wrong: { protocol: http, baseUrl: ${baseUrl}, tokn: x }
  absent: { protocol: kafka }
  nothing: {}
  slow: { protocol: http, baseUrl: ${baseUrl}, healthPath: /silent }
  missing: { protocol: http, baseUrl: ${baseUrl}, token: 'env:NOT_SET' }
`
    const report = await connections.doctor(await readConnections(await file('all.yaml', text)), { timeoutMs: 1000, parallel: 2 })
    expect(report.ok).toBe(false)
    expect(
      report.connections.map(({ name, protocol, ok, steps }) => [
        name,
        protocol,
        ok,
        steps.at(-1)?.name,
        steps.at(-1)?.error?.code,
      ]),
    ).toEqual([
      ['good', 'http', true, 'ask for /', undefined],
      ['refused', 'http', false, 'ask for /', 'HTTP_UNAUTHORIZED'],
      ['wrong', 'http', false, 'read the configuration', 'CONFIG_INVALID'],
      ['absent', 'kafka', false, 'find the connector', 'CONNECTIONS_PROTOCOL_UNKNOWN'],
      ['nothing', '', false, 'find the connector', 'CONNECTIONS_PROTOCOL_MISSING'],
      ['slow', 'http', false, 'answer in time', 'CONNECTIONS_TIMEOUT'],
      ['missing', 'http', false, 'read the configuration', 'CONFIG_REFERENCE_UNRESOLVED'],
    ])
  })

  it('ends with its signal and the reason of that', async () => {
    const abort = new AbortController()
    const reason = new RangeError('changed my mind')
    setTimeout(() => abort.abort(reason), 100)
    const named = { slow: { protocol: 'http', baseUrl, healthPath: '/silent' } }
    await expect(connections.doctor(named, { signal: abort.signal })).rejects.toBe(reason)
  })

  it('takes a file of one connection, and says what is wrong with one of none', async () => {
    const one = await readConnections(await file('one.json', JSON.stringify({ protocol: 'http', baseUrl })))
    expect(await connections.doctor(one)).toMatchObject({ ok: true, connections: [{ name: 'http', protocol: 'http' }] })
    const wrong = {
      '{}': 'expected "connections"',
      '{"connections":{"a":1}}': 'connections.a',
      '{"connection":{}}': '"connection"',
    }
    for (const [text, message] of Object.entries(wrong)) {
      await expect(readConnections(await file('wrong.json', text))).rejects.toMatchObject({
        code: 'CONNECTIONS_FILE_INVALID',
        message: expect.stringContaining(message) as string,
      })
    }
  })
})

it('knows the keys of a protocol, with their variables', async () => {
  const keys = await connections.keys('http')
  expect(keys[0]).toMatchObject({ path: ['baseUrl'], required: true, environment: 'HTTP_BASE_URL' })
  expect(keys.find(({ path }) => path[0] === 'token')).toMatchObject({ secret: true })
})

it('knows the protocols that are here, and how to have the others', async () => {
  await writeFile(join(folder, 'package.json'), '{}')
  await writeFile(join(folder, 'yarn.lock'), '')
  const there = createConnections({ discover: folder, variables: {} }).available()
  expect(there[0]).toEqual({ protocol: 'http', packageName: '@common-handlers/connections' })
  expect(there).toContainEqual({ protocol: 'ftp', packageName: '@common-handlers/ftp', install: 'yarn add @common-handlers/ftp' })
})
