import { execFile } from 'node:child_process'
import { chmod, chown, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inspect, promisify } from 'node:util'
import { describeWith, type PostgresServer, runOnPostgres, startPostgres } from '@common-handlers/testkit'
import { afterAll, beforeAll, expect, it, vi } from 'vitest'
import { PostgresHandler, type PostgresHandlerOptions } from '../src/index.ts'
import { failure, readAll } from './own-database.ts'

const run = promisify(execFile)

/** A certificate authority, and a certificate it made for `localhost` only. */
async function makeCertificates(folder: string): Promise<void> {
  const openssl = (...args: string[]) => run('openssl', args, { cwd: folder })
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  await openssl('req', '-x509', ...key, '-keyout', 'ca.key', '-out', 'ca.crt', '-days', '2', '-subj', '/CN=test authority')
  await openssl(
    'req',
    '-x509',
    ...key,
    '-keyout',
    'other.key',
    '-out',
    'other.crt',
    '-days',
    '2',
    '-subj',
    '/CN=another authority',
  )
  await openssl(
    'req',
    ...key,
    '-keyout',
    'server.key',
    '-out',
    'server.csr',
    '-subj',
    '/CN=localhost',
    '-addext',
    'subjectAltName=DNS:localhost',
  )
  await openssl(
    'x509',
    '-req',
    '-in',
    'server.csr',
    '-CA',
    'ca.crt',
    '-CAkey',
    'ca.key',
    '-CAcreateserial',
    '-out',
    'server.crt',
    '-days',
    '2',
    '-copy_extensions',
    'copy',
  )
}

/** A certificate for a user, by an authority of {@link makeCertificates}. */
async function makeClientCertificate(folder: string, user: string, authority: string): Promise<void> {
  const openssl = (...args: string[]) => run('openssl', args, { cwd: folder })
  const file = `${user}-${authority}`
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', `${file}.key`]
  await openssl('req', ...key, '-out', `${file}.csr`, '-subj', `/CN=${user}`)
  const signer = ['-CA', `${authority}.crt`, '-CAkey', `${authority}.key`, '-CAcreateserial']
  await openssl('x509', '-req', '-in', `${file}.csr`, ...signer, '-out', `${file}.crt`, '-days', '2')
}

// describeWith says whether there are binaries at all; TLS then gets a server of its own.
describeWith(['postgres'], 'TLS', () => {
  let folder = ''
  let server: PostgresServer | undefined
  const options = (more: PostgresHandlerOptions): PostgresHandlerOptions => {
    if (server === undefined) throw new Error('asked for before beforeAll')
    const { port, user, password, database } = server
    return { host: 'localhost', port, user, password, database, ...more }
  }
  const ca = (name = 'ca.crt'): string => join(folder, name)

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'pgh-tls-'))
    await makeCertificates(folder)
    await makeClientCertificate(folder, 'certified', 'ca')
    await makeClientCertificate(folder, 'certified', 'other')
    server = await startPostgres()
    // The server runs under another account where the tests run as root, and wants its key for itself.
    const control = new PostgresHandler(options({}))
    const [[data] = []] = await control.getRows('SHOW data_directory')
    await control.close()
    const owner = await stat(String(data))
    await chmod(folder, 0o755)
    await chmod(join(folder, 'server.key'), 0o600)
    await chown(join(folder, 'server.key'), owner.uid, owner.gid)
    // This user logs in by certificate alone.
    await runOnPostgres(server, 'CREATE ROLE certified LOGIN')
    const rules = join(String(data), 'pg_hba.conf')
    await writeFile(rules, `hostssl all certified 127.0.0.1/32 cert\n${await readFile(rules, 'utf8')}`)
    for (const [name, value] of [
      ['ssl_ca_file', join(folder, 'ca.crt')],
      ['ssl_cert_file', join(folder, 'server.crt')],
      ['ssl_key_file', join(folder, 'server.key')],
      ['ssl', 'on'],
    ]) {
      await runOnPostgres(server, `ALTER SYSTEM SET ${name} = '${value}'`)
    }
    await runOnPostgres(server, 'SELECT pg_reload_conf()')
    await vi.waitFor(() => encrypted({ sslMode: 'require' }), { timeout: 10_000 })
  })
  afterAll(async () => {
    await server?.stop()
    await rm(folder, { recursive: true, force: true })
  })

  async function encrypted(more: PostgresHandlerOptions): Promise<unknown> {
    await using pg = new PostgresHandler(options(more))
    const [row] = await pg.getRecords('SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()')
    return row?.['ssl']
  }

  it('is used, and checked, as the mode says', async () => {
    expect(await encrypted({ sslMode: 'disable' })).toBe(false)
    expect(await encrypted({ sslMode: 'require', host: '127.0.0.1' })).toBe(true)
    expect(await encrypted({ sslMode: 'verify-ca', sslRootCert: ca(), host: '127.0.0.1' })).toBe(true)
    expect(await encrypted({ sslMode: 'verify-full', sslRootCert: ca() })).toBe(true)
    expect(await encrypted({ sslMode: 'verify-full', sslRootCert: await readFile(ca(), 'utf8') })).toBe(true)
  })

  it.each([
    ['an authority that is not trusted', { sslMode: 'verify-ca', sslRootCert: 'other.crt' }],
    ['another authority and full checks', { sslMode: 'verify-full', sslRootCert: 'other.crt' }],
    ['a certificate of another host', { sslMode: 'verify-full', sslRootCert: 'ca.crt', host: '127.0.0.1' }],
  ] as const)('refuses %s', async (_, more) => {
    await using pg = new PostgresHandler(options({ ...more, sslRootCert: ca(more.sslRootCert) }))
    expect(await failure(pg.connect())).toMatchObject({ name: 'ConnectionError', code: 'POSTGRES_TLS_UNTRUSTED', retry: 'never' })
  })

  it('looks for another name in the certificate where it is told to', async () => {
    const full = { sslMode: 'verify-full', sslRootCert: ca(), host: '127.0.0.1' } as const
    expect(await encrypted({ ...full, sslServerName: 'localhost' })).toBe(true)
    await using pg = new PostgresHandler(options({ ...full, sslServerName: 'db.example' }))
    expect(await failure(pg.connect())).toMatchObject({ code: 'POSTGRES_TLS_UNTRUSTED', retry: 'never' })
  })

  it('logs in by a certificate of the client, given as files or as text', async () => {
    const byCertificate = (authority: string): PostgresHandlerOptions => ({
      host: '127.0.0.1',
      user: 'certified',
      password: undefined,
      sslMode: 'verify-ca',
      sslRootCert: ca(),
      sslCert: ca(`certified-${authority}.crt`),
      sslKey: ca(`certified-${authority}.key`),
    })
    const whoAmI = async (more: PostgresHandlerOptions): Promise<unknown> => {
      await using pg = new PostgresHandler(options(more))
      return await pg.getRows('SELECT current_user, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()')
    }
    expect(await whoAmI(byCertificate('ca'))).toEqual([['certified', '/CN=certified']])
    const sslCert = await readFile(ca('certified-ca.crt'), 'utf8')
    const sslKey = await readFile(ca('certified-ca.key'), 'utf8')
    expect(await whoAmI({ ...byCertificate('ca'), sslCert, sslKey })).toEqual([['certified', '/CN=certified']])
    // A cancel request shows the certificate too.
    await using pg = new PostgresHandler(options(byCertificate('ca')))
    expect(await failure(pg.execute('SELECT pg_sleep(60)', [], { timeoutMs: 50 }))).toMatchObject({ code: 'POSTGRES_TIMEOUT' })
    const refused = await failure(whoAmI(byCertificate('other')))
    expect(refused).toMatchObject({ name: 'AuthError', code: 'POSTGRES_CLIENT_CERT_REFUSED', retry: 'never' })
    const { sslCert: _, sslKey: __, ...without } = byCertificate('ca')
    expect(await failure(whoAmI(without))).toMatchObject({ name: 'AuthError', code: 'POSTGRES_LOGIN_REFUSED' })
    expect(inspect(refused, { depth: 9, showHidden: true })).not.toContain('PRIVATE KEY')
  })

  it('needs root certificates that can be read', async () => {
    await using pg = new PostgresHandler(options({ sslMode: 'verify-full', sslRootCert: ca('missing.crt') }))
    expect(await failure(pg.connect())).toMatchObject({ name: 'ConfigError', code: 'POSTGRES_CERT_UNREADABLE' })
  })

  it('carries COPY and cancel requests', async () => {
    await using pg = new PostgresHandler(options({ sslMode: 'verify-full', sslRootCert: ca() }))
    const { rows } = await readAll(pg.copyOut('COPY (SELECT generate_series(1, 100000), 1) TO STDOUT (FORMAT csv)'))
    expect([rows.length, String(rows.at(-1))]).toEqual([100_000, '100000,1\n'])
    expect(await failure(pg.execute('SELECT pg_sleep(60)', [], { timeoutMs: 50 }))).toMatchObject({ code: 'POSTGRES_TIMEOUT' })
    for await (const block of pg.copyOut(`COPY (SELECT generate_series(1, 10000000), repeat('x', 100)) TO STDOUT`)) {
      if (block.rows > 0) break
    }
    const active = await pg.getRows(
      `SELECT count(*)::int FROM pg_stat_activity WHERE state = 'active' AND backend_type = 'client backend'`,
    )
    expect(active).toEqual([[1]])
    expect(pg.poolStatus()).toMatchObject({ total: 1, idle: 1, busy: 0, waiting: 0 })
  })
})
