import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { getMssqlEngine } from '@common-handlers/mssql'
import { serverCertificate } from '@common-handlers/testkit'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { changed, columnOf, result, startTdsStub } from './tds-stub.ts'

// A handshake with the stub of tds-stub.ts, which is no SQL Server: TLS from the first byte on, as `strict` has it.

let folder: string
let certificate: Awaited<ReturnType<typeof serverCertificate>>
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'mssql-tls-'))
  certificate = await serverCertificate(folder)
})
afterAll(() => rm(folder, { recursive: true, force: true }))

it('trusts whom it is told to trust, and nobody else', async () => {
  const tls = { key: await readFile(certificate.keyFile, 'utf8'), cert: await readFile(certificate.certificateFile, 'utf8') }
  const answer = (sql: string) => (sql.includes('SELECT 1') ? result(columnOf.integer('one', 4, 1n)) : changed(0))
  await using stub = await startTdsStub(answer, { tls })
  const config = {
    host: '127.0.0.1',
    port: stub.port,
    database: 'app',
    username: 'etl',
    password: 'a password of some length',
    sslMode: 'strict' as const,
  }
  const alone = { reuse: false }
  await expect(getMssqlEngine(config, alone)).rejects.toMatchObject({
    code: 'MSSQL_TLS_UNTRUSTED',
    outcome: 'connection',
    retry: 'never',
  })
  for (const sslRootCert of [certificate.caFile, certificate.caCert]) {
    await using engine = await getMssqlEngine({ ...config, sslRootCert }, alone)
    expect(await engine.query('SELECT 1 AS one')).toEqual([{ one: 1 }])
  }
})
