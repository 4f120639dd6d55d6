import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createServer as createTlsServer, type TlsOptions } from 'node:tls'
import { promisify } from 'node:util'
import { type NetworkTarget, type NetworkTls, networkSteps } from '@common-handlers/connections/check'
import { AuthError, type CheckStep, runCheck } from '@common-handlers/core'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'

const run = promisify(execFile)
const servers: Server[] = []
let folder: string

interface Pair {
  readonly key: string
  readonly cert: string
}

/** A certificate for `localhost`, signed by the pair `by` or by itself, valid between two dates (YYMMDD). */
async function certificate(name: string, by = name, [from, to] = ['200101', '491231'], subject = 'localhost'): Promise<Pair> {
  const at = (file: string): string => join(folder, file)
  await run('openssl', [
    ...'req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'.split(' '),
    '-subj',
    `/CN=${subject}`,
    '-keyout',
    at(`${name}.key`),
    '-out',
    at(`${name}.csr`),
  ])
  const database = at(`${name}.d`)
  await mkdir(database)
  await writeFile(join(database, 'index.txt'), '')
  await writeFile(
    at(`${name}.cnf`),
    `[ca]
default_ca=own
[own]
new_certs_dir=${database}
database=${database}/index.txt
rand_serial=yes
default_md=sha256
policy=any
[any]
commonName=supplied
[more]
basicConstraints=${by === name ? 'critical,CA:TRUE' : 'CA:FALSE'}
subjectAltName=DNS:${subject}
`,
  )
  const files = `-config ${name}.cnf -keyfile ${by}.key -in ${name}.csr -out ${name}.pem ${by === name ? '-selfsign' : `-cert ${by}.pem`}`
  const days = `-startdate ${from}000000Z -enddate ${to}000000Z`
  await run('openssl', `ca -batch -notext -extensions more ${files} ${days}`.split(' '), { cwd: folder })
  return { key: await readFile(at(`${name}.key`), 'utf8'), cert: await readFile(at(`${name}.pem`), 'utf8') }
}

async function listen(server: Server): Promise<number> {
  servers.push(server.listen(0, '127.0.0.1'))
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

const serveTcp = (onSocket: (socket: Socket) => void = () => undefined): Promise<number> =>
  listen(createServer((socket) => onSocket(socket.on('error', () => undefined))))
const serveTls = (options: TlsOptions): Promise<number> =>
  listen(createTlsServer(options, (socket) => socket.on('error', () => undefined)).on('tlsClientError', () => undefined))

/** The last step, and what it found. */
async function last(target: Omit<NetworkTarget, 'signal' | 'host'> & { readonly host?: string }): Promise<CheckStep | undefined> {
  const { signal } = new AbortController()
  const { steps } = await runCheck('', networkSteps({ host: 'localhost', signal, ...target }), signal)
  return steps.at(-1)
}

const failure = async (port: number, tls?: NetworkTls, host?: string): Promise<[string, string | undefined]> => {
  const step = await last({
    port,
    timeoutMs: 500,
    ...(tls === undefined ? {} : { tls }),
    ...(host === undefined ? {} : { host }),
  })
  return [step?.error?.code ?? '', step?.error?.message]
}

let authority: Pair
let signed: Pair

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'network-check-'))
  authority = await certificate('ca', 'ca', ['200101', '491231'], 'test authority')
  signed = await certificate('signed', 'ca')
})
afterEach(() => {
  for (const server of servers.splice(0)) server.close()
})
afterAll(() => rm(folder, { recursive: true, force: true }))

describe('the network of a connection', () => {
  it('is looked at step by step', async () => {
    const port = await serveTls(signed)
    const { signal } = new AbortController()
    const { steps, ok } = await runCheck(
      '',
      networkSteps({ host: 'localhost', port, tls: { ca: authority.cert }, signal }),
      signal,
    )
    expect(ok, JSON.stringify(steps)).toBe(true)
    expect(steps.map(({ name, detail }) => [name, detail])).toEqual([
      ['find localhost', expect.stringContaining('127.0.0.1')],
      [`reach port ${port}`, undefined],
      [
        'trust the certificate',
        expect.stringMatching(/^TLSv1\.3, CN=localhost signed by CN=test authority, \d+ days left$/) as string,
      ],
    ])
  })

  it('says that a name is unknown, a port closed, a server silent', async () => {
    expect(await failure(1, undefined, 'nobody.invalid')).toEqual([
      'CONNECTIONS_NAME_UNKNOWN',
      expect.stringContaining('nobody.invalid'),
    ])
    const port = await serveTcp()
    servers[0]?.close()
    expect(await failure(port)).toEqual(['CONNECTIONS_PORT_REFUSED', expect.stringContaining(`localhost:${port}`)])
    expect(await failure(await serveTcp(), {})).toEqual([
      'CONNECTIONS_SERVER_SILENT',
      expect.stringContaining('may not speak TLS'),
    ])
  })

  it('takes an address of IPv6 in brackets', async () => {
    expect(await failure(1, undefined, '[::1]')).toEqual([
      expect.stringMatching(/REFUSED|UNREACHABLE/),
      expect.stringContaining('[::1]:1'),
    ])
  })

  it('ends with its signal and the reason of that', async () => {
    const port = await serveTcp()
    const abort = new AbortController()
    const reason = new RangeError('changed my mind')
    const steps = networkSteps({ host: '127.0.0.1', port, tls: {}, signal: abort.signal })
    setTimeout(() => abort.abort(reason), 50)
    await expect(runCheck('', steps, abort.signal)).rejects.toBe(reason)
  })
})

describe('a certificate', () => {
  it('of an unknown authority is not trusted, and says whom to trust', async () => {
    const port = await serveTls(signed)
    const [code, message] = await failure(port, {})
    expect([code, message]).toEqual([
      'CONNECTIONS_CERTIFICATE_UNTRUSTED',
      expect.stringContaining('signed by CN=test authority, whom nobody here'),
    ])
    const other = await certificate('other', 'other', ['200101', '491231'], 'other authority')
    expect(await failure(port, { ca: other.cert })).toEqual([code, expect.stringContaining('the ca does not vouch for')])
  })

  it('signed by itself may be trusted as such', async () => {
    const own = await certificate('own')
    const port = await serveTls(own)
    expect(await failure(port, {})).toEqual(['CONNECTIONS_CERTIFICATE_UNTRUSTED', expect.stringContaining('signed by itself')])
    expect(await last({ port, tls: { ca: own.cert } })).toMatchObject({ ok: true })
  })

  it('says that its days are over, or have not begun', async () => {
    const expired = await certificate('expired', 'ca', ['200101', '200201'])
    const ca = authority.cert
    expect(await failure(await serveTls(expired), { ca })).toEqual([
      'CONNECTIONS_CERTIFICATE_EXPIRED',
      expect.stringContaining('2020-02-01'),
    ])
    const early = await certificate('early', 'ca', ['490101', '491201'])
    expect(await failure(await serveTls(early), { ca })).toEqual([
      'CONNECTIONS_CERTIFICATE_NOT_YET_VALID',
      expect.stringContaining('2049-01-01'),
    ])
  })

  it('is for a name, which may be given, or left unchecked', async () => {
    const port = await serveTls(await certificate('elsewhere', 'ca', ['200101', '491231'], 'db.example.com'))
    const ca = authority.cert
    expect(await failure(port, { ca })).toEqual(['CONNECTIONS_CERTIFICATE_NAME', expect.stringContaining('not for "localhost"')])
    expect(await failure(port, { ca }, '127.0.0.1')).toEqual([
      'CONNECTIONS_CERTIFICATE_NAME',
      expect.stringContaining('not for "127.0.0.1"'),
    ])
    expect(await last({ port, tls: { ca, servername: 'db.example.com' } })).toMatchObject({ ok: true })
    expect(await last({ port, tls: { ca, verify: 'ca' } })).toMatchObject({
      ok: true,
      detail: expect.stringContaining('name is not checked') as string,
    })
    expect(await failure(port, { verify: 'ca' })).toEqual(['CONNECTIONS_CERTIFICATE_UNTRUSTED', expect.any(String)])
    expect(await last({ port, tls: { verify: 'none' } })).toMatchObject({
      ok: true,
      detail: expect.stringContaining('not checked') as string,
    })
  })
})

describe('a handshake', () => {
  it('with a port that speaks something else says so', async () => {
    const port = await serveTcp((socket) => socket.end('220 greetings\r\n'))
    expect(await failure(port, {})).toEqual(['CONNECTIONS_TLS_NOT_SPOKEN', expect.stringContaining('use its TLS port')])
    const closing = await serveTcp((socket) => socket.destroy())
    expect(await failure(closing, {})).toEqual(['CONNECTIONS_TLS_NOT_SPOKEN', expect.any(String)])
  })

  it('that the server refuses says why: no version in common, no certificate of the client', async () => {
    const options = { ...signed, requestCert: true, rejectUnauthorized: true, ca: authority.cert }
    const ca = authority.cert
    expect(
      await failure(await serveTls({ ...signed, maxVersion: 'TLSv1.1', minVersion: 'TLSv1', ciphers: 'ALL@SECLEVEL=0' }), { ca }),
    ).toEqual(['CONNECTIONS_TLS_REFUSED', expect.stringContaining('another version')])
    const own = await certificate('client', 'ca')
    for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
      const port = await serveTls({ ...options, maxVersion })
      expect(await failure(port, { ca })).toEqual([
        'CONNECTIONS_TLS_REFUSED',
        expect.stringContaining('a certificate of the client'),
      ])
      expect(await last({ port, tls: { ca, ...own } })).toMatchObject({ ok: true })
    }
  })

  it('begins after what the protocol says in clear, whose errors are its own', async () => {
    const secure = createTlsServer(signed)
    const port = await serveTcp((socket) => {
      socket.once('data', (asked) => {
        socket.write(asked.toString() === 'STARTTLS' ? 'Y' : 'N')
        secure.emit('connection', socket)
      })
    })
    const startTls = async (socket: Socket): Promise<void> => {
      socket.write('STARTTLS')
      const [answer] = (await once(socket, 'data')) as [Buffer]
      if (answer.toString() !== 'Y') throw new Error('refused')
    }
    expect(await last({ port, tls: { ca: authority.cert, startTls } })).toMatchObject({ ok: true })
    const refuse = async (): Promise<void> => {
      throw new AuthError('not with me', { code: 'SOME_REFUSED' })
    }
    expect(await failure(port, { startTls: refuse })).toEqual(['SOME_REFUSED', 'not with me'])
    expect(await failure(await serveTcp(), { startTls })).toEqual(['CONNECTIONS_SERVER_SILENT', expect.any(String)])
  })

  it('with a key that is none says where to look', async () => {
    const port = await serveTls(signed)
    expect(await failure(port, { ca: authority.cert, cert: signed.cert, key: 'no key' })).toEqual([
      'CONNECTIONS_TLS_REFUSED',
      expect.stringContaining('look at ca, cert and key'),
    ])
  })
})
