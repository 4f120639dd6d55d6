import { chmod, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it, vi } from 'vitest'
import {
  createBucket,
  createDatabase,
  openbaoAdmin,
  runOnPostgres,
  runOnTrino,
  s3Request,
  type S3Address,
  type ServerControl,
  startDurableOpenBao,
  startOpenBao,
  startPostgres,
  startSeaweedfs,
  startTrino,
  startVersitygw,
} from '@common-handlers/testkit'
import { describeWith } from '@common-handlers/testkit/vitest'
import { anyRunning } from '../src/servers/process-tree.ts'
import { listenersOf } from './process-check.ts'

// A place of this file's own, so that what is left in it was left by a server that was started here.
let temporary: string

beforeAll(async () => {
  temporary = await mkdtemp(join(tmpdir(), 'testkit-servers-'))
  // PostgreSQL runs as another user where the tests run as root.
  await chmod(temporary, 0o755)
  vi.stubEnv('TMPDIR', temporary)
})

afterAll(async () => {
  vi.unstubAllEnvs()
  await rm(temporary, { recursive: true })
})

describeWith(['postgres'], 'startPostgres', () => {
  it.each([undefined, 'embedded'] as const)('runs with binaries %s', async (binaries) => {
    const server = await startPostgres(binaries === undefined ? {} : { binaries })
    const work = {
      async write() {
        await runOnPostgres(server, 'CREATE TABLE t AS SELECT 7 AS n')
      },
      async read() {
        await runOnPostgres(server, `DO $$ BEGIN ASSERT (SELECT n FROM t) = 7; END $$`)
      },
    }
    expect(await life(server, work)).toEqual(clean)
  })

  it('refuses a wrong password, and takes further settings', async () => {
    await using server = await startPostgres({ settings: { max_connections: '7' } })
    await expect(runOnPostgres({ ...server, password: 'wrong' }, 'SELECT 1')).rejects.toMatchObject({ code: '28P01' })
    await runOnPostgres(server, `DO $$ BEGIN ASSERT current_setting('max_connections') = '7'; END $$`)
  })

  it('gives each file a database of its own', async () => {
    await using server = await startPostgres()
    const [one, two] = await Promise.all([createDatabase(server), createDatabase(server)])
    await runOnPostgres(one, 'CREATE TABLE t ()')
    await runOnPostgres(two, 'CREATE TABLE t ()')
    await one.drop()
    await expect(runOnPostgres(one, 'SELECT 1')).rejects.toMatchObject({ code: '3D000' })
  })

  it('quotes the log of a server that does not start', async () => {
    const start = startPostgres({ settings: { shared_buffers: 'nonsense' } })
    await expect(start).rejects.toMatchObject({ code: 'TESTKIT_SERVER_START' })
    await expect(start).rejects.toThrow('invalid value for parameter "shared_buffers"')
  })
})

describeWith(['openbao'], 'startDurableOpenBao', () => {
  it('comes back with its secrets, unsealed', async () => {
    await using server = await startDurableOpenBao()
    const admin = openbaoAdmin(server)
    await admin.putSecret('app', { user: 'kept' })
    await server.restart()
    expect(await admin.request('GET', 'secret/data/app')).toMatchObject({
      status: 200,
      body: { data: { data: { user: 'kept' } } },
    })
  })
})

describeWith(['openbao'], 'startOpenBao', () => {
  it('runs; what it held is gone after a restart', async () => {
    const server = await startOpenBao()
    const admin = openbaoAdmin(server)
    await admin.putSecret('app', { user: 'me' })
    expect((await admin.request('GET', 'secret/data/app')).body).toMatchObject({ data: { data: { user: 'me' } } })
    const work = {
      write: async () => undefined,
      async read() {
        expect((await admin.request('GET', 'secret/data/app')).status).toBe(404)
      },
    }
    expect(await life(server, work)).toEqual(clean)
  })

  it('makes roles and tokens that hold to their policies, and can be sealed', async () => {
    await using server = await startOpenBao()
    const admin = openbaoAdmin(server)
    await admin.putSecret('app', { user: 'me' })
    await admin.writePolicy('reader', 'path "secret/data/app" { capabilities = ["read"] }')
    const { roleId, secretId } = await admin.createAppRole('job', { policies: ['reader'] })
    const login = await admin.request('POST', 'auth/approle/login', { role_id: roleId, secret_id: secretId })
    const tokens = [
      (login.body as { auth: { client_token: string } }).auth.client_token,
      await admin.createToken({ policies: ['reader'], ttl: '5m' }),
    ]
    for (const rootToken of tokens) {
      const limited = openbaoAdmin({ ...server, rootToken })
      expect((await limited.request('GET', 'secret/data/app')).status).toBe(200)
      expect((await limited.request('GET', 'secret/data/other')).status).toBe(403)
    }
    await admin.seal()
    expect((await admin.request('GET', 'secret/data/app')).status).toBe(503)
    await admin.unseal()
    expect((await admin.request('GET', 'secret/data/app')).status).toBe(200)
  })
})

describeWith(['s3'], 'startSeaweedfs', () => {
  it('runs', async () => {
    const server = await startSeaweedfs()
    const catalog = await fetch(`${server.catalogUri}/v1/oauth/tokens`, {
      method: 'POST',
      body: new URLSearchParams({
        grant_type: 'client_credentials',
        client_id: server.accessKeyId,
        client_secret: server.secretAccessKey,
      }),
    })
    expect(await catalog.json()).toMatchObject({ access_token: expect.any(String) })
    expect(await life(server, storing(server))).toEqual(clean)
  })

  it('holds to conditional writes and refuses a wrong secret', async () => {
    await using server = await startSeaweedfs()
    expect(await statusWithWrongSecret(server)).toBe(403)
    expect(await statusesOfTwoClaims(server)).toEqual([200, 412])
  })
})

describeWith(['versitygw'], 'startVersitygw', () => {
  it('runs', async () => {
    const server = await startVersitygw()
    await createBucket(server, 'another')
    expect(await statusWithWrongSecret(server)).toBe(403)
    expect(await statusesOfTwoClaims(server)).toEqual([200, 412])
    expect(await life(server, storing(server))).toEqual(clean)
  })
})

describeWith(['trino', 's3', 'postgres'], 'startTrino', ({ trino, s3, postgres }) => {
  it('has an Iceberg, a staging and a second Iceberg catalog', async () => {
    expect(trino).toMatchObject({ catalog: 'lake', stagingCatalog: 'stage', jdbcCatalog: 'lake_jdbc', s3 })
    for (const catalog of ['lake', 'stage', 'lake_jdbc']) {
      await runOnTrino(trino, `CREATE SCHEMA ${catalog}.testkit`)
      await runOnTrino(trino, `CREATE TABLE ${catalog}.testkit.t AS SELECT TIMESTAMP '2026-01-02 03:04:05.123456' AS t`)
      const { columns, rows } = await runOnTrino(trino, `SELECT t FROM ${catalog}.testkit.t`)
      expect({ catalog, columns, rows }).toEqual({ catalog, columns: ['t'], rows: [['2026-01-02 03:04:05.123456']] })
      await runOnTrino(trino, `DROP TABLE ${catalog}.testkit.t`)
      await runOnTrino(trino, `DROP SCHEMA ${catalog}.testkit`)
    }
  })

  it('reports errors', async () => {
    await expect(runOnTrino(trino, 'SELECT * FROM lake.nowhere.t')).rejects.toThrow('SCHEMA_NOT_FOUND')
  })

  it('runs, and finds its tables again', { timeout: 400_000 }, async () => {
    const server = await startTrino({ s3, postgres, heapMegabytes: 768 })
    const work = {
      async write() {
        await runOnTrino(server, 'CREATE SCHEMA lake.kept')
        await runOnTrino(server, 'CREATE TABLE lake.kept.t AS SELECT 7 AS n')
      },
      async read() {
        expect((await runOnTrino(server, 'SELECT n FROM lake.kept.t')).rows).toEqual([[7]])
      },
    }
    expect(await life(server, work)).toEqual(clean)
    await runOnTrino(trino, 'DROP TABLE lake.kept.t')
    await runOnTrino(trino, 'DROP SCHEMA lake.kept')
  })
})

interface Work {
  write(): Promise<void>
  /** Throws if it does not find what was written. */
  read(): Promise<void>
}

/** What every launcher shows in {@link life}. */
const clean = { listensElsewhere: [], outlivedARestart: false, answeredWhileDown: false, running: false, leftovers: [] }

/** A server's whole life: work, crash, the same address again, an orderly shutdown, the end. */
async function life(server: ServerControl, work: Work): Promise<typeof clean> {
  await work.write()
  const first = await server.pids()
  if (first.length === 0 || (await readdir(temporary)).length !== 1) throw new Error('the checks below would see nothing')
  const listensElsewhere = (await listenersOf(first)).filter(({ host }) => host !== 'loopback') as never[]

  await server.restart()
  const second = await server.pids()
  const outlivedARestart = await anyRunning(first)
  await work.read()

  await server.down({ graceful: true })
  const answeredWhileDown = await work.read().then(
    () => true,
    () => false,
  )
  await server.stop()
  await server.stop()
  const running = await anyRunning([...first, ...second])
  await expect(server.up()).rejects.toThrow('was stopped')
  return { listensElsewhere, outlivedARestart, answeredWhileDown, running, leftovers: (await readdir(temporary)) as never[] }
}

function storing(server: S3Address): Work {
  const key = `${server.bucket}/folder/a file`
  return {
    async write() {
      expect((await s3Request(server, 'PUT', key, { body: 'content' })).status).toBe(200)
    },
    async read() {
      const response = await s3Request(server, 'GET', key)
      expect(await response.text()).toBe('content')
    },
  }
}

async function statusWithWrongSecret(server: S3Address): Promise<number> {
  const response = await s3Request({ ...server, secretAccessKey: 'wrong' }, 'GET', `${server.bucket}?list-type=2`)
  return response.status
}

/** Two writes of one key that must not exist yet: what exactly-once rests on. */
async function statusesOfTwoClaims(server: S3Address): Promise<number[]> {
  const claim = async (): Promise<number> => {
    const options = { body: 'mine', headers: { 'if-none-match': '*' } }
    return (await s3Request(server, 'PUT', `${server.bucket}/claim`, options)).status
  }
  return [await claim(), await claim()]
}
