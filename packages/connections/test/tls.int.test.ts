import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createServer, type Server } from 'node:https'
import { type AddressInfo, createServer as createTcpServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { createConnections } from '@common-handlers/connections'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { createProxy } from './proxy.ts'

const connections = createConnections({ variables: {} })
let folder: string
let server: Server
let baseUrl: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tls-'))
  const [key, certificate] = [join(folder, 'server.key'), join(folder, 'server.pem')]
  await promisify(execFile)('openssl', [
    ...'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost'.split(' '),
    '-addext',
    'subjectAltName=IP:127.0.0.1',
    '-keyout',
    key,
    '-out',
    certificate,
  ])
  server = createServer({ key: await readFile(key), cert: await readFile(certificate) }, (_request, response) => {
    response.end('private')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  baseUrl = `https://127.0.0.1:${(server.address() as AddressInfo).port}`
})

afterAll(async () => {
  await connections.closeAllConnections()
  server.close()
  await rm(folder, { recursive: true, force: true })
})

it('does not speak to a server whose certificate nobody vouches for, and does not try again', async () => {
  const client = await connections.getConnection('http', { baseUrl, token: 'not for strangers' })
  await expect(client.requestRest()).rejects.toMatchObject({
    code: 'HTTP_TLS_FAILED',
    retry: 'never',
    message: expect.stringContaining('as ca') as string,
  })
  const { steps } = await connections.testConnection('http', { baseUrl })
  expect(steps.map(({ ok, error }) => error?.code ?? ok)).toEqual([true, true, true, 'CONNECTIONS_CERTIFICATE_UNTRUSTED'])
})

it('trusts the certificates in ca, given as such or as a file', async () => {
  const file = join(folder, 'server.pem')
  for (const ca of [await readFile(file, 'utf8'), `file:${file}`]) {
    const client = await connections.getConnection('http', { baseUrl, ca })
    expect((await client.requestRest()).bytes.toString()).toBe('private')
  }
})

it('waits for no handshake longer than it may, nor to be closed', async () => {
  const silent = createTcpServer((socket) => socket.on('error', () => undefined))
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
  const own = createConnections({ variables: {} })
  try {
    const client = await own.getConnection('http', { baseUrl: `https://127.0.0.1:${(silent.address() as AddressInfo).port}` })
    // Far less than the 30 s that a try may take, and far more than this takes.
    const limit = AbortSignal.timeout(10_000)
    await expect(client.requestRest({ timeoutMs: 50 })).rejects.toMatchObject({ code: 'HTTP_TIMEOUT' })
    await expect(client.requestStream({ timeoutMs: 50 })).rejects.toMatchObject({ code: 'HTTP_TIMEOUT' })
    await own.closeAllConnections()
    expect(limit.aborted).toBe(false)
  } finally {
    silent.close()
  }
})

it('trusts the same certificates through a proxy, which sees nothing of what is said', async () => {
  const ca = await readFile(join(folder, 'server.pem'), 'utf8')
  const { server: proxy, seen } = createProxy('me', 'a proxy secret')
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
  const proxyUrl = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`
  const through = { baseUrl, proxyUrl, proxyUsername: 'me', proxyPassword: 'a proxy secret' }
  try {
    const client = await connections.getConnection('http', { ...through, ca })
    expect((await client.requestRest({ path: '/secret' })).bytes.toString()).toBe('private')
    expect(seen).toEqual([`CONNECT ${new URL(baseUrl).host}`])
    const stranger = await connections.getConnection('http', through)
    await expect(stranger.requestRest()).rejects.toMatchObject({ code: 'HTTP_TLS_FAILED' })
  } finally {
    await connections.closeAllConnections()
    proxy.close()
  }
})
