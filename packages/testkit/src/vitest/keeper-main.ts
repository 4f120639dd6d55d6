import { randomBytes } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { findEngine } from '../containers/engine.ts'
import type { Addresses, ServerKind } from '../servers/addresses.ts'
import { givenAddress } from '../servers/given.ts'
import { startOpenBao } from '../servers/openbao.ts'
import { startPostgres } from '../servers/postgres.ts'
import { startSeaweedfs } from '../servers/seaweedfs.ts'
import type { ServerControl } from '../servers/server-process.ts'
import { startTrino } from '../servers/trino.ts'
import { startVersitygw } from '../servers/versitygw.ts'
import { ServerUnavailable } from '../errors.ts'
import { isServerKind, type KeeperAddress, type KeeperAnswer } from './keeper-protocol.ts'

// The keeper owns the servers that the files of one test run share. It starts each at the first request for it, and it
// lives as long as its standard input, a pipe from the test runner: at its end, however that came, everything stops.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined)

type Started<K extends ServerKind> = Promise<Addresses[K] & Partial<ServerControl>>

const started = new Map<ServerKind, Promise<Partial<ServerControl>>>()
// In the order in which they have to stop: what uses the others first.
const order: readonly ServerKind[] = ['trino', 'openbao', 'versitygw', 's3', 'postgres', 'engine']
const starters: { readonly [K in ServerKind]: () => Started<K> } = {
  postgres: () => startPostgres(),
  openbao: startOpenBao,
  s3: startSeaweedfs,
  versitygw: startVersitygw,
  engine: findEngine,
  async trino() {
    const [s3, postgres] = await Promise.all([
      one('s3'),
      // Only its second Iceberg catalog needs it.
      one('postgres').catch(() => undefined),
    ])
    return await startTrino({ s3, ...(postgres === undefined ? {} : { postgres }) })
  },
}

function one<K extends ServerKind>(kind: K): Started<K> {
  let server = started.get(kind) as Started<K> | undefined
  if (server === undefined) {
    server = begin(kind)
    server.catch(() => undefined)
    started.set(kind, server)
  }
  return server
}

async function begin<K extends ServerKind>(kind: K): Started<K> {
  const given = givenAddress(kind)
  if (given !== undefined) return given
  const before = performance.now()
  const server = await starters[kind]()
  const seconds = (performance.now() - before) / 1000
  if (seconds > 2) process.stderr.write(`testkit: ${kind} was ready after ${seconds.toFixed(1)} s\n`)
  return server
}

async function answer(kind: ServerKind): Promise<KeeperAnswer> {
  // A client gives up on a silent answer in the end, and a first fetch takes minutes: it is told to come again.
  return await Promise.race([settled(kind), sleep(20_000, { state: 'starting' } as const, { ref: false })])
}

async function settled(kind: ServerKind): Promise<KeeperAnswer> {
  try {
    // JSON leaves the functions of the server out: what travels is its address.
    return { state: 'ready', address: await one(kind) }
  } catch (error) {
    if (error instanceof ServerUnavailable) return { state: 'unavailable', reason: error.reason }
    return { state: 'failed', message: error instanceof Error ? error.message : String(error) }
  }
}

const token = randomBytes(24).toString('base64url')

async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const kind = request.url?.slice(1)
  if (request.headers.authorization !== `Bearer ${token}`) response.writeHead(401).end()
  else if (!isServerKind(kind)) response.writeHead(404).end()
  else response.setHeader('content-type', 'application/json').end(JSON.stringify(await answer(kind)))
}

const server = createServer((request, response) => void serve(request, response))
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
const { port } = server.address() as AddressInfo
const self: KeeperAddress = { url: `http://127.0.0.1:${port}`, token }
process.stdout.write(`${JSON.stringify(self)}\n`)

process.stdin.resume()
await new Promise((resolve) => process.stdin.once('close', resolve).once('end', resolve))
server.close()
for (const kind of order) {
  const running = await started.get(kind)?.catch(() => undefined)
  await running?.stop?.()
}
process.exit()
