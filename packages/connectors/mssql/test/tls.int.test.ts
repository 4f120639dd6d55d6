import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { getMssqlEngine } from '@common-handlers/mssql'
import { serverCertificate } from '@common-handlers/testkit'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { changed, columnOf, result, startTdsStub } from './tds-stub.ts'

// Handshakes with the stub of tds-stub.ts, which is no SQL Server.

let folder: string
let certificate: Awaited<ReturnType<typeof serverCertificate>>
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'mssql-tls-'))
  certificate = await serverCertificate(folder)
})
afterAll(() => rm(folder, { recursive: true, force: true }))

it.each([
  ['strict', 'at once'],
  ['verify-full', 'in the login'],
] as const)('trusts with sslMode %s whom it is told to trust, and nobody else', async (sslMode, begins) => {
  const [key, cert] = await Promise.all([certificate.keyFile, certificate.certificateFile].map((file) => readFile(file, 'utf8')))
  const answer = (sql: string) => (sql.includes('SELECT 1') ? result(columnOf.integer('one', 4, 1n)) : changed(0))
  await using stub = await startTdsStub(answer, { tls: { key: key ?? '', cert: cert ?? '', begins } })
  const config = {
    host: 'localhost',
    port: stub.port,
    database: 'app',
    username: 'etl',
    password: 'a password of some length',
    sslMode,
  }
  const one = async (more: object): Promise<unknown> => {
    await using engine = await getMssqlEngine({ ...config, ...more }, { reuse: false })
    return engine.query('SELECT 1 AS one')
  }
  await expect(one({})).rejects.toMatchObject({ code: 'MSSQL_TLS_UNTRUSTED', outcome: 'connection', retry: 'never' })
  for (const sslRootCert of [certificate.caFile, certificate.caCert]) expect(await one({ sslRootCert })).toEqual([{ one: 1 }])
})

it('encrypts without looking with sslMode require', async () => {
  const [key, cert] = await Promise.all([certificate.keyFile, certificate.certificateFile].map((file) => readFile(file, 'utf8')))
  const tls = { key: key ?? '', cert: cert ?? '', begins: 'in the login' } as const
  await using stub = await startTdsStub(() => changed(0), { tls })
  const place = { host: '127.0.0.1', port: stub.port, database: 'app', username: 'etl', password: 'a password of some length' }
  await using engine = await getMssqlEngine({ ...place, sslMode: 'require' }, { reuse: false })
  expect(await engine.execute('UPDATE')).toEqual({ rowsChanged: 0 })
})
