import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import { type AddressInfo, createServer as createTcpServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, describe, expect, it } from 'vitest'
import { VaultHandler, type VaultHandlerOptions } from '../src/index.ts'
import { failure } from './failure.ts'

// What a network or a proxy does and a vault never would: answers made by hand, over real sockets.

const cleanups: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup()
})

async function listen(server: Server): Promise<string> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => sockets.add(socket))
  cleanups.push(async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => server.close(resolve))
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

const quick = { attempts: 4, budgetMs: 20_000, baseDelayMs: 1, maxDelayMs: 2 }

function handler(address: string, options: Partial<VaultHandlerOptions> = {}): VaultHandler {
  const vault = new VaultHandler({ address, token: 'hvs.a-token-to-hide', retry: quick, ...options })
  cleanups.push(() => vault.close({ graceMs: 0 }))
  return vault
}

/** One answer a request, in turn; the last one for all that follow. */
async function answering(...answers: RequestListener[]): Promise<{ address: string; seen: string[] }> {
  const seen: string[] = []
  const address = await listen(
    createServer((request: IncomingMessage, response: ServerResponse) => {
      seen.push(`${request.method} ${request.url}`)
      answers[Math.min(seen.length, answers.length) - 1]?.(request, response)
    }),
  )
  return { address, seen }
}

const json =
  (status: number, body: unknown, headers: Record<string, string> = {}): RequestListener =>
  (_request, response) => {
    response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))
  }
const good = json(200, { data: { a: 1 } })

describe('a server that accepts and never answers', () => {
  const hanging = (): Promise<string> => listen(createTcpServer(() => undefined))

  it('is given up after the time-out of a request', async () => {
    const vault = handler(await hanging(), { timeoutMs: 50, retry: { attempts: 2, baseDelayMs: 1 } })
    const error = await failure(vault.request('GET', 'secret/data/app'))
    expect(error).toMatchObject({
      name: 'OperationTimeoutError',
      code: 'VAULT_TIMEOUT',
      message: 'GET secret/data/app took longer than 50 ms',
    })
  })

  it('is given up after the time-out of the call', async () => {
    const error = await failure(handler(await hanging()).getSecret('secret/app', { timeoutMs: 50 }))
    expect(error).toMatchObject({ code: 'VAULT_TIMEOUT', message: 'read secret/app took longer than 50 ms' })
  })

  it('is left at once by an abort, with the reason of the caller', async () => {
    const reason = new Error('the user went away')
    await expect(handler(await hanging()).getSecret('secret/app', { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    const controller = new AbortController()
    const waiting = handler(await hanging()).getSecret('secret/app', { signal: controller.signal })
    setTimeout(() => controller.abort(reason), 20)
    await expect(waiting).rejects.toBe(reason)
  })

  it('does not hold up close() past its grace', async () => {
    const vault = handler(await hanging())
    const error = failure(vault.getSecret('secret/app'))
    await vault.close({ graceMs: 20 })
    expect(await error).toMatchObject({ code: 'VAULT_CLOSED' })
    expect(await failure(vault.getSecret('secret/app'))).toMatchObject({ code: 'VAULT_CLOSED' })
    await vault.close()
  })
})

describe('what is shared by several calls', () => {
  it('a question about a mount is waited for by each call as long as its own time-out', async () => {
    const { address } = await answering(() => undefined)
    const vault = handler(address)
    const first = failure(vault.getSecret('secret/app'))
    expect(await failure(vault.getSecret('secret/app', { timeoutMs: 50 }))).toMatchObject({ code: 'VAULT_TIMEOUT' })
    await vault.close({ graceMs: 0 })
    expect(await first).toMatchObject({ code: 'VAULT_CLOSED' })
  })

  const loggingIn = { token: undefined, appRole: { roleId: 'role-of-the-app' } }
  const login = json(200, { auth: { client_token: 'hvs.late', lease_duration: 3600, renewable: true } })

  it('a login that nobody waits for any more is not begun again after close()', async () => {
    const { address, seen } = await answering(() => undefined)
    const vault = handler(address, { ...loggingIn, retry: { attempts: 100, baseDelayMs: 1, maxDelayMs: 2 } })
    expect(await failure(vault.getSecret('secret/app', { timeoutMs: 50 }))).toMatchObject({ code: 'VAULT_TIMEOUT' })
    await vault.close()
    const made = seen.length
    await new Promise((resolve) => setTimeout(resolve, 200))
    expect(seen).toHaveLength(made)
  })

  it('a token that comes after its calls have gone is revoked by close()', async () => {
    const { promise: closing, resolve: close } = Promise.withResolvers<void>()
    const { address, seen } = await answering((request, response) => void closing.then(() => login(request, response)), good)
    const vault = handler(address, loggingIn)
    expect(await failure(vault.getSecret('secret/app', { timeoutMs: 50 }))).toMatchObject({ code: 'VAULT_TIMEOUT' })
    const closed = vault.close()
    close()
    await closed
    expect(seen).toEqual(['POST /v1/auth/approle/login', 'POST /v1/auth/token/revoke-self'])
  })

  it('keys of AWS that nobody gives are not waited for without end', async () => {
    const { address } = await answering(good)
    const aws = { credentials: (): Promise<never> => new Promise(() => undefined) }
    const vault = handler(address, { token: undefined, aws, timeoutMs: 50 })
    expect(await failure(vault.getSecret('secret/app'))).toMatchObject({ code: 'VAULT_TIMEOUT' })
    const refusing = handler(address, { token: undefined, aws: { credentials: () => Promise.reject(new Error('nobody home')) } })
    expect(await failure(refusing.getSecret('secret/app'))).toMatchObject({
      code: 'VAULT_AWS_CREDENTIALS',
      message: expect.stringContaining('nobody home'),
    })
  })
})

describe('what passes', () => {
  it.each<[string, RequestListener]>([
    ['412', json(412, { errors: ['required index state not present'] })],
    ['429', json(429, { errors: ['too many requests'] }, { 'retry-after': '0' })],
    ['500', json(500, { errors: ['internal error'] })],
    ['a page of a proxy', (_request, response) => response.writeHead(502, { 'content-type': 'text/html' }).end('<html>')],
    ['a connection that is cut before the answer', (request) => request.socket.destroy()],
    [
      'an answer that is cut in the middle',
      (_request, response) => {
        response.writeHead(200, { 'content-length': '100' }).write('{"data":', () => response.socket?.destroy())
      },
    ],
  ])('%s is tried again', async (_title, fault) => {
    const { address, seen } = await answering(fault, fault, good)
    expect(await handler(address).request('GET', 'secret/data/app')).toEqual({ data: { a: 1 } })
    expect(seen).toHaveLength(3)
  })

  it('is tried as often as the policy says', async () => {
    const { address, seen } = await answering(json(500, { errors: [] }))
    expect(await failure(handler(address).request('GET', 'a/b'))).toMatchObject({ code: 'VAULT_SERVER_ERROR', serverCode: '500' })
    expect(seen).toHaveLength(quick.attempts)
  })

  it('is not waited for past the budget', async () => {
    const { address, seen } = await answering(json(429, { errors: [] }, { 'retry-after': '86400' }))
    expect(await failure(handler(address).request('GET', 'a/b'))).toMatchObject({
      code: 'VAULT_RATE_LIMITED',
      retryAfterMs: 86_400_000,
    })
    expect(seen).toHaveLength(1)
  })

  it('a write that may have been applied is not made twice, one that was refused is', async () => {
    const applied = await answering(json(500, { errors: [] }), good)
    expect(await failure(handler(applied.address).request('POST', 'a/b', { body: { x: 1 } }))).toMatchObject({
      code: 'VAULT_SERVER_ERROR',
    })
    expect(applied.seen).toHaveLength(1)
    const refused = await answering(json(429, { errors: [] }), good)
    await handler(refused.address).request('POST', 'a/b', { body: { x: 1 } })
    expect(refused.seen).toHaveLength(2)
  })
})

describe('what is no vault', () => {
  it('answers with something else than JSON', async () => {
    const { address, seen } = await answering((_request, response) =>
      response.writeHead(200, { 'content-type': 'text/html' }).end('<p>hi'),
    )
    expect(await failure(handler(address).request('GET', 'a/b'))).toMatchObject({ code: 'VAULT_ANSWER_UNREADABLE' })
    expect(seen).toHaveLength(1)
  })

  it('answers without end, and is not listened to for ever', async () => {
    const { address } = await answering((_request, response) => {
      const block = Buffer.alloc(1024 * 1024, ' ')
      const more = (): void => {
        while (!response.destroyed && response.write(block)) continue
        response.once('drain', more)
      }
      more()
    })
    expect(await failure(handler(address).request('GET', 'a/b'))).toMatchObject({
      name: 'CapacityError',
      code: 'VAULT_ANSWER_TOO_LARGE',
    })
  })

  it('has a name that nobody knows', async () => {
    const error = await failure(handler('http://no-such-host.invalid:8200', { retry: { attempts: 1 } }).getSecret('secret/app'))
    expect(error).toMatchObject({ name: 'ConnectionError', code: 'VAULT_HOST_NOT_FOUND', retry: 'safe' })
  })

  it('is not there', async () => {
    const error = await failure(handler('unix:///no/such/socket', { retry: { attempts: 1 } }).getSecret('secret/app'))
    expect(error).toMatchObject({ code: 'VAULT_CONNECTION_REFUSED', message: expect.stringContaining('no such socket') })
  })
})

it('a refusal by policy through an agent, which adds the token itself, is not taken for a missing token', async () => {
  const { address } = await answering(json(403, { errors: ['1 error occurred:\n\t* permission denied\n\n'] }))
  const vault = handler(address, { token: undefined })
  expect(await failure(vault.request('GET', 'a/b'))).toMatchObject({ code: 'VAULT_PERMISSION_DENIED' })
})

it('a file of certificates that cannot be read to its end is waited for as long as the call may take', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'common-handlers-pipe-'))
  cleanups.push(() => rm(folder, { recursive: true }))
  const caFile = join(folder, 'ca.pem')
  await promisify(execFile)('mkfifo', [caFile])
  const vault = handler('https://127.0.0.1:1', { tls: { caFile } })
  const error = await failure(vault.getSecret('secret/app', { timeoutMs: 50 }))
  await vault.close()
  await writeFile(caFile, '')
  expect(error).toMatchObject({ code: 'VAULT_TIMEOUT' })
})

describe('a standby', () => {
  it('that sends on to the active node is followed once, with the token', async () => {
    const tokens: unknown[] = []
    const active = await answering((request, response) => {
      tokens.push(request.headers['x-vault-token'])
      good(request, response)
    })
    const standby = await answering((request, response) => {
      response.writeHead(307, { location: `${active.address}${request.url ?? ''}` }).end()
    })
    expect(await handler(standby.address).request('GET', 'secret/data/my key')).toEqual({ data: { a: 1 } })
    expect(active.seen).toEqual(['GET /v1/secret/data/my%20key'])
    expect(tokens).toEqual(['hvs.a-token-to-hide'])
  })

  it('that sends in a circle is an error', async () => {
    const circle = await answering((_request, response) => response.writeHead(307, { location: '/v1/again' }).end())
    expect(await failure(handler(circle.address).request('GET', 'a/b'))).toMatchObject({
      code: 'VAULT_REQUEST_REFUSED',
      serverCode: '307',
    })
    expect(circle.seen).toEqual(['GET /v1/a/b', 'GET /v1/again'])
  })
})

it('integers that a number would round are kept', async () => {
  const fields =
    '{"small":9007199254740991,"large":9007199254740993,"float":1.5,"tree":[9007199254740993],"text":"12345678901234567890"}'
  const mount = json(200, { data: { path: 'kv/', type: 'kv', options: { version: '1' } } })
  const { address } = await answering(mount, (_request, response) => response.writeHead(200).end(`{"data":${fields}}`))
  const vault = handler(address)
  expect(await vault.getSecret('kv/app')).toEqual({
    small: 9007199254740991,
    large: 9007199254740993n,
    float: 1.5,
    tree: [9007199254740993n],
    text: '12345678901234567890',
  })
  expect(await vault.resolve('kv/app#large')).toBe('9007199254740993')
  expect(await vault.resolve('kv/app#tree')).toBe('[9007199254740993]')
})

it('the variables of the environment that node-vault reads have no part in a request', async () => {
  const { address, seen } = await answering((request, response) =>
    json(200, { token: request.headers['x-vault-token'] ?? null, namespace: request.headers['x-vault-namespace'] ?? null })(
      request,
      response,
    ),
  )
  const before = { ...process.env }
  Object.assign(process.env, {
    VAULT_TOKEN: 'from-environment',
    VAULT_NAMESPACE: 'nowhere',
    VAULT_PREFIX: '/prefix',
    VAULT_ADDR: 'http://127.0.0.1:1',
  })
  try {
    const vault = new VaultHandler({ address })
    expect(await vault.request('GET', 'a/b')).toEqual({ token: null, namespace: null })
    await vault.close()
  } finally {
    for (const name of ['VAULT_TOKEN', 'VAULT_NAMESPACE', 'VAULT_PREFIX', 'VAULT_ADDR']) delete process.env[name]
    Object.assign(process.env, before)
  }
  expect(seen).toEqual(['GET /v1/a/b'])
})
