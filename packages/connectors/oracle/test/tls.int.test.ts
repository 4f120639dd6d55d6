import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createServer, type TLSSocket } from 'node:tls'
import { promisify } from 'node:util'
import { getOracleEngine, testOracleConnection } from '@common-handlers/oracle'
import { serverCertificate } from '@common-handlers/testkit'
import { afterAll, beforeAll, expect, it } from 'vitest'

// A handshake with a server that speaks TLS and no more: no Oracle.

let folder: string
let certificate: Awaited<ReturnType<typeof serverCertificate>>
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'oracle-tls-'))
  certificate = await serverCertificate(folder)
})
afterAll(() => rm(folder, { recursive: true, force: true }))

it('trusts whom it is told to trust, and nobody else', async () => {
  const key = await readFile(certificate.keyFile, 'utf8')
  const sockets = new Set<TLSSocket>()
  let heard = 0
  const server = createServer({ key, cert: await readFile(certificate.certificateFile, 'utf8') }, (socket) => {
    sockets.add(socket)
    socket.on('error', () => undefined)
    socket.once('data', () => (heard += 1))
  })
  server.on('tlsClientError', () => undefined)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const config = {
    host: 'localhost',
    port: (server.address() as AddressInfo).port,
    serviceName: 'app',
    username: 'etl',
    password: 'a password of some length',
    sslMode: 'verify-full' as const,
    connectTimeoutMs: 2_000,
  }
  try {
    await expect(getOracleEngine(config)).rejects.toMatchObject({
      code: 'ORACLE_TLS_UNTRUSTED',
      outcome: 'connection',
      retry: 'never',
    })
    expect((await testOracleConnection(config)).steps.at(-1)?.error?.code).toBe('CONNECTIONS_CERTIFICATE_UNTRUSTED')
    expect(heard).toBe(0)
    // Without a key of the client it is no wallet to this driver.
    await expect(getOracleEngine({ ...config, wallet: certificate.caFile })).rejects.toMatchObject({
      code: 'ORACLE_WALLET_UNUSABLE',
      outcome: 'config',
    })
    const own = await certificate.sign('client', 'etl')
    const trusting = { ...config, wallet: [own.certificate, certificate.caCert, own.key].join('\n') }
    await expect(getOracleEngine(trusting)).rejects.toMatchObject({ code: 'ORACLE_CONNECT_TIMEOUT' })
    // The connect packet came through.
    expect(heard).toBe(1)
    const code = `
      import { getOracleEngine } from '@common-handlers/oracle'
      await getOracleEngine(${JSON.stringify(config)}).catch(({ code }) => console.log(code))
      process.exit()`
    const { stdout } = await promisify(execFile)(
      process.execPath,
      ['--conditions=@common-handlers/source', '--input-type=module', '-e', code],
      { cwd: join(import.meta.dirname, '..'), env: { ...process.env, NODE_EXTRA_CA_CERTS: certificate.caFile } },
    )
    expect(stdout).toBe('ORACLE_CONNECT_TIMEOUT\n')
    const { steps } = await testOracleConnection(trusting)
    expect(steps.find(({ name }) => name === 'trust the certificate')).toMatchObject({ ok: true })
  } finally {
    for (const socket of sockets) socket.destroy()
    server.close()
  }
})
