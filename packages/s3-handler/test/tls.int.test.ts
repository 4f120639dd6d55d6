import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { request } from 'node:http'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { getCACertificates, setDefaultCACertificates } from 'node:tls'
import { promisify } from 'node:util'
import { describeWith } from '@common-handlers/testkit'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { S3Handler, type S3HandlerOptions } from '../src/index.ts'

describeWith(['versitygw'], 'S3Handler over TLS', ({ versitygw }) => {
  const { hostname, port } = new URL(versitygw.endpoint)
  const before = getCACertificates('default')
  let folder: string
  let options: S3HandlerOptions
  let trusted: string
  let seen: (string | undefined)[] = []
  const stop: (() => void)[] = []

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 's3-tls-'))
    const files = ['-keyout', 'key.pem', '-out', 'cert.pem', '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost']
    await promisify(execFile)('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', ...files], {
      cwd: folder,
    })
    trusted = await readFile(join(folder, 'cert.pem'), 'utf8')
    const server = createServer({ key: await readFile(join(folder, 'key.pem')), cert: trusted }, (incoming, outgoing) => {
      seen.push(incoming.headers['x-amz-content-sha256'] as string | undefined)
      const { method, url: path, headers } = incoming
      const forwarded = request({ hostname, port, method, path, headers }, (answer) => {
        outgoing.writeHead(answer.statusCode ?? 502, answer.headers)
        answer.pipe(outgoing)
      })
      forwarded.on('error', () => incoming.socket.destroy())
      incoming.pipe(forwarded)
    })
    await once(server.listen(0, '127.0.0.1'), 'listening')
    stop.push(
      () => server.closeAllConnections(),
      () => server.close(),
    )
    const { region, accessKeyId, secretAccessKey, bucket } = versitygw
    const endpoint = `https://localhost:${(server.address() as AddressInfo).port}`
    options = { endpoint, region, accessKeyId, secretAccessKey, bucket, prefix: 's3-tls', partSize: 5 * 1024 * 1024 }
  })
  afterAll(async () => {
    setDefaultCACertificates(before)
    for (const step of stop) step()
    await rm(folder, { recursive: true })
  })

  it('refuses a certificate that nobody trusts, and says so', async () => {
    await using s3 = new S3Handler(options)
    await expect(s3.head('x')).rejects.toMatchObject({ code: 'S3_TLS_FAILED', retry: 'never' })
  })

  it('transfers, and leaves the bytes out of the signature', async () => {
    setDefaultCACertificates([...before, trusted])
    await using s3 = new S3Handler(options)
    const bytes = randomBytes(11 * 1024 * 1024)
    seen = []
    await s3.put('tls', bytes)
    expect(seen.filter((hash) => hash === 'UNSIGNED-PAYLOAD')).toHaveLength(4)
    const path = join(folder, 'tls')
    await s3.download('tls', path)
    expect((await readFile(path)).equals(bytes)).toBe(true)
    const chunks: Buffer[] = []
    for await (const chunk of await s3.get('tls')) chunks.push(chunk as Buffer)
    expect(Buffer.concat(chunks).equals(bytes)).toBe(true)
    await s3.delete('tls')
  })

  it('asks the host of the bucket where paths are not wanted', async () => {
    await using s3 = new S3Handler({ ...options, forcePathStyle: false, retry: { attempts: 1 } })
    // There is no lake.localhost; with a path, localhost would have answered.
    await expect(s3.head('x')).rejects.toMatchObject({ code: 'S3_HOST_UNKNOWN' })
  })
})
