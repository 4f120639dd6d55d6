import { once } from 'node:events'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { silentLogger } from '@common-handlers/core'
import { describeWith } from '@common-handlers/testkit'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { VaultHandler, type VaultHandlerOptions } from '../src/index.ts'
import { type Certificate, certificateAuthority } from './certificates.ts'
import { failure } from './failure.ts'
import { forwardProxy } from './forward-proxy.ts'
import { recordingProxy } from './recording-proxy.ts'

describeWith(['openbao'], 'the way to the server', ({ openbao }) => {
  let folder: string
  let caFile: string
  let server: Certificate
  let elsewhere: Certificate
  let client: { clientCertificateFile: string; clientKeyFile: string }
  let ca: string

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'common-handlers-tls-'))
    const authority = await certificateAuthority(openbao)
    ca = authority.certificate
    caFile = join(folder, 'ca.pem')
    await writeFile(caFile, ca)
    server = await authority.issue('localhost')
    elsewhere = await authority.issue('vault.example', { local: false })
    const issued = await authority.issue('client.example')
    client = { clientCertificateFile: join(folder, 'client.pem'), clientKeyFile: join(folder, 'client-key.pem') }
    await writeFile(client.clientCertificateFile, issued.certificate)
    await writeFile(client.clientKeyFile, issued.key)
  })
  afterAll(() => rm(folder, { recursive: true, force: true }))

  const lookUp = async (
    address: string,
    tls: VaultHandlerOptions['tls'],
    options: Partial<VaultHandlerOptions> = {},
  ): Promise<unknown> => {
    await using vault = new VaultHandler({ address, token: openbao.rootToken, tls, retry: { attempts: 1 }, ...options })
    return await vault.request('GET', 'auth/token/lookup-self')
  }
  const good = { data: { policies: ['root'] } }
  const material = ({ certificate, key }: Certificate): { cert: string; key: string } => ({ cert: certificate, key })

  it('trusts the certificates of a file or a folder, and no others', async () => {
    await using proxy = await recordingProxy(openbao.address, { tls: material(server) })
    expect(await lookUp(proxy.address, { caFile })).toMatchObject(good)
    const caDirectory = join(folder, 'ca')
    await mkdir(caDirectory)
    await writeFile(join(caDirectory, 'root.pem'), ca)
    await writeFile(join(caDirectory, 'README'), 'not a certificate')
    expect(await lookUp(proxy.address, { caDirectory })).toMatchObject(good)
    expect(await failure(lookUp(proxy.address, {}))).toMatchObject({ name: 'ConnectionError', code: 'VAULT_TLS', retry: 'never' })
    expect(proxy.seen).toHaveLength(2)
  })

  it('wants the name of the host, or the one it was told', async () => {
    await using proxy = await recordingProxy(openbao.address, { tls: material(elsewhere) })
    expect(await failure(lookUp(proxy.address, { caFile }))).toMatchObject({
      code: 'VAULT_TLS',
      context: { driverCode: 'ERR_TLS_CERT_ALTNAME_INVALID' },
    })
    expect(await lookUp(proxy.address, { caFile, serverName: 'vault.example' })).toMatchObject(good)
  })

  it('may be left unverified, which is logged', async () => {
    await using proxy = await recordingProxy(openbao.address, { tls: material(server) })
    const warnings: string[] = []
    const logger = { ...silentLogger, warn: (_facts: object, message = '') => void warnings.push(message) }
    expect(await lookUp(proxy.address, { verify: false }, { logger })).toMatchObject(good)
    expect(warnings).toEqual(['the certificate of the vault is not verified'])
  })

  it('shows a certificate of its own', async () => {
    const tls = { ...material(server), ca, requestCert: true, rejectUnauthorized: true }
    await using proxy = await recordingProxy(openbao.address, { tls })
    expect(await lookUp(proxy.address, { caFile, ...client })).toMatchObject(good)
    await failure(lookUp(proxy.address, { caFile }))
    expect(proxy.seen).toHaveLength(1)
  })

  it('names a file it cannot use', async () => {
    await using proxy = await recordingProxy(openbao.address, { tls: material(server) })
    const none = join(folder, 'none.pem')
    expect(await failure(lookUp(proxy.address, { caFile: none }))).toMatchObject({
      code: 'VAULT_TLS_FILE',
      context: { file: none },
    })
    const empty = join(folder, 'empty')
    await mkdir(empty)
    expect(await failure(lookUp(proxy.address, { caDirectory: empty }))).toMatchObject({ code: 'VAULT_TLS_FILE' })
  })

  it('is not mistaken: TLS to a plain port', async () => {
    const error = await failure(lookUp(openbao.address.replace('http:', 'https:'), { caFile }))
    expect(error).toMatchObject({ name: 'ConnectionError', code: 'VAULT_TLS', retry: 'never' })
  })

  it('does not lead from TLS to plain text, whatever the server answers', async () => {
    await using plain = await recordingProxy(openbao.address)
    const standby = createServer(material(server), (request, response) =>
      response.writeHead(307, { location: `${plain.address}${request.url}` }).end(),
    )
    standby.listen(0, '127.0.0.1')
    await once(standby, 'listening')
    const address = `https://127.0.0.1:${(standby.address() as AddressInfo).port}`
    expect(await failure(lookUp(address, { caFile }))).toMatchObject({ code: 'VAULT_REQUEST_REFUSED', serverCode: '307' })
    expect(plain.seen).toEqual([])
    standby.close()
  })

  it('may go through a proxy, in the open and by TLS', async () => {
    await using proxy = await forwardProxy()
    expect(await lookUp(openbao.address, {}, { proxy: proxy.address })).toMatchObject(good)
    await using secure = await recordingProxy(openbao.address, { tls: material(server) })
    expect(await lookUp(secure.address, { caFile }, { proxy: proxy.address })).toMatchObject(good)
    expect(proxy.seen).toEqual([
      `GET ${openbao.address}/v1/auth/token/lookup-self`,
      `CONNECT ${secure.address.replace('https://', '')}`,
    ])
    const stranger = proxy.address.replace('joes-password', 'not-his-password')
    for (const address of [openbao.address, secure.address]) {
      const error = await failure(lookUp(address, { caFile }, { proxy: stranger }))
      expect(error.name).toMatch(/RemoteError|ConnectionError/)
      expect(`${error.message} ${JSON.stringify(error)}`).not.toMatch(/not-his-password|joes-password/)
    }
    expect(secure.seen).toHaveLength(1)
  })

  it('may be a Unix socket, as of an agent', async () => {
    await using proxy = await recordingProxy(openbao.address, { socket: join(folder, 'agent socket') })
    expect(await lookUp(proxy.address, {})).toMatchObject(good)
    expect(proxy.seen).toEqual(['GET /v1/auth/token/lookup-self 200'])
  })
})
