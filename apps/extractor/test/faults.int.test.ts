import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { CapacityError, silentLogger } from '@common-handlers/core'
import { LocalFolderStore, type ObjectStore } from '@common-handlers/storage'
import { openbaoAdmin, startFaultProxy } from '@common-handlers/testkit'
import { describeWith } from '@common-handlers/testkit/vitest'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { extractorConfigSchema } from '../src/config.ts'
import { extract } from '../src/extract.ts'
import { addRows, auditLogTable } from './audit-log.ts'
import { dataset, s3Settings, type Settings, type Setup, setUp, until } from './harness.ts'
import { readRows } from './stored-files.ts'

const run = promisify(execFile)
const source: Settings['source'] = { table: 'audit_log', mode: 'incremental', watermark: 'id' }

async function withTable(setup: Setup, rows = 10): Promise<Setup> {
  await setup.sql(auditLogTable)
  await addRows(setup, rows)
  return setup
}

describeWith(['postgres'], 'what PostgreSQL refuses', ({ postgres }) => {
  it.each([
    ['a table that is not there', { table: 'nothing' }, 4, 'there is no table or view nothing'],
    [
      'a column that is not there',
      { table: 'audit_log', columns: ['id', 'naem'] },
      2,
      'the source has no column \\"naem\\"; it has: id, occurred_at',
    ],
    [
      'a watermark that is not there',
      { table: 'audit_log', mode: 'incremental', watermark: 'seq' },
      2,
      'source.watermark: the source has no column',
    ],
    ['a key that is not there', { table: 'audit_log', key: ['uid'] }, 2, 'source.key: the source has no column'],
    ['a condition that is none', { table: 'audit_log', where: 'id >' }, 1, 'POSTGRES_SYNTAX'],
    ['a query with two columns of one name', { query: 'SELECT id, id FROM audit_log' }, 2, 'two columns are named \\"id\\"'],
  ] as const)('%s ends with a clear error', async (_, bad, code, message) => {
    await using setup = await withTable(await setUp(postgres))
    const outcome = await setup.call('run', { source: bad })
    expect([outcome.code, outcome.log.includes(message)], outcome.log).toEqual([code, true])
    expect(await Array.fromAsync(setup.store.list(''))).toEqual([])
  })

  it('a wrong password ends with 3 and is not shown', async () => {
    await using setup = await withTable(await setUp(postgres))
    const { host, port, user, database } = setup.database
    const outcome = await setup.call('run', { source, postgres: { host, port, user, database, password: 'not-the-password' } })
    expect([outcome.code, outcome.log.includes('POSTGRES_LOGIN_REFUSED')], outcome.log).toEqual([3, true])
    expect(outcome.log).not.toContain('not-the-password')
  })

  it('missing rights end with 3 and the GRANT that is missing', async () => {
    await using setup = await withTable(await setUp(postgres))
    const { host, port, database } = setup.database
    const role = `reader_${database}`
    await setup.sql(`CREATE ROLE ${role} LOGIN PASSWORD 'reader-password'`)
    const settings: Settings = { source, postgres: { host, port, database, user: role, password: 'reader-password' } }
    const refused = await setup.call('run', settings)
    expect([refused.code, refused.log.includes(`GRANT SELECT ON audit_log TO ${role}`)], refused.log).toEqual([3, true])
    await setup.sql(`GRANT SELECT ON audit_log TO ${role}`)
    expect((await setup.call('run', settings)).code).toBe(0)
    await setup.sql(`DROP OWNED BY ${role}; DROP ROLE ${role}`)
  })

  it('a backend that is killed in the middle of the COPY ends with 5; a second run is whole', async () => {
    await using setup = await withTable(await setUp(postgres), 3000)
    await setup.sql(`CREATE FUNCTION gate(id bigint) RETURNS bigint STABLE LANGUAGE plpgsql AS
      'BEGIN IF id = 2000 THEN PERFORM pg_advisory_xact_lock_shared(9); END IF; RETURN id; END'`)
    await setup.sql('SELECT pg_advisory_lock(9)')
    const gated: Settings = { source: { query: 'SELECT gate(id) AS id, payload FROM audit_log' }, output: { fileBytes: 16_384 } }
    const running = setup.call('run', gated)
    const waiting = `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'COPY%'`
    await until(async () => (await setup.sql(waiting)).length > 0)
    await setup.sql(`SELECT pg_terminate_backend(pid) FROM (${waiting}) AS w`)
    const outcome = await running
    expect([outcome.code, outcome.log.includes('POSTGRES_CONNECTION_LOST')], outcome.log).toEqual([5, true])
    expect(await Array.fromAsync(setup.store.list(''))).toEqual([])
    await setup.sql('SELECT pg_advisory_unlock(9)')
    expect((await setup.call('run', gated)).result['rows']).toBe(3000)
    expect((await setup.manifests()).length).toBe(1)
  })

  it('a server that is not there ends with 5', async () => {
    await using setup = await setUp(postgres)
    const { user, password, database } = setup.database
    const outcome = await setup.call('run', {
      source,
      postgres: { host: '127.0.0.1', port: 1, user, password, database, connectTimeoutMs: 500 },
    })
    expect([outcome.code, outcome.log.includes('POSTGRES_CONNECT_FAILED')], outcome.log).toEqual([5, true])
  })
})

describeWith(['postgres', 's3'], 'what S3 refuses', ({ postgres, s3 }) => {
  it('a bucket that is not there ends with 4', async () => {
    await using setup = await withTable(await setUp(postgres, s3))
    const outcome = await setup.call('run', { source, store: 's3://no-such-bucket-here/landing' })
    expect([outcome.code, outcome.log.includes('S3_BUCKET_NOT_FOUND')], outcome.log).toEqual([4, true])
  })

  it('a wrong secret key ends with 3 and is not shown', async () => {
    await using setup = await withTable(await setUp(postgres, s3))
    const outcome = await setup.call('run', { source, s3: { ...s3Settings(s3, '').s3, secretAccessKey: 'not-the-secret-key' } })
    expect(outcome.code, outcome.log).toBe(3)
    expect(outcome.log).not.toContain('not-the-secret-key')
  })

  it('a server that is gone for ten seconds in the middle does not end the run', async () => {
    await using setup = await withTable(await setUp(postgres, s3), 20_000)
    const { hostname, port } = new URL(s3.endpoint)
    await using proxy = await startFaultProxy({ host: hostname, port: Number(port) })
    const running = setup.call('run', {
      source,
      s3: { ...s3Settings(s3, '').s3, endpoint: `http://${proxy.host}:${proxy.port}` },
      output: { fileBytes: 65_536 },
    })
    await until(async () => (await Array.fromAsync(setup.store.list(`${dataset}/run=`))).length > 2)
    await proxy.refuse()
    await new Promise((resolve) => setTimeout(resolve, 10_000))
    await proxy.accept()
    const outcome = await running
    expect([outcome.code, outcome.result['rows']], outcome.log).toEqual([0, 20_000])
    expect(outcome.log).toContain('trying again')
    const [manifest] = await setup.manifests()
    if (manifest === undefined) throw new Error('there is no manifest')
    const csv = (await readRows(setup.store, manifest)).toString()
    expect(csv.match(/\n/g)?.length).toBe(20_000)
  })
})

describeWith(['postgres', 'openbao'], 'credentials from a vault', ({ postgres, openbao }) => {
  const vault = { address: openbao.address, token: openbao.rootToken }

  it('are read by reference', async () => {
    await using setup = await withTable(await setUp(postgres))
    const { host, port, user, password, database } = setup.database
    await openbaoAdmin(openbao).putSecret(database, { password })
    const reference = `vault:secret/data/${database}#password`
    const settings: Settings = { source, vault, postgres: { host, port, database, user, password: reference } }
    expect((await setup.call('run', settings)).result['rows']).toBe(10)
    const checked = await setup.call('check', settings)
    expect([checked.code, JSON.stringify(checked.result).includes(openbao.address)]).toEqual([0, true])
    const explained = await setup.call('explain-config', settings)
    expect(JSON.stringify(explained.result)).toContain(reference)
    expect(JSON.stringify(explained.result)).not.toContain(password)
  })

  it('that are not there end with 4, naming key and path', async () => {
    await using setup = await withTable(await setUp(postgres))
    const { host, port, user, database } = setup.database
    const at = (password: string): Settings => ({ source, vault, postgres: { host, port, database, user, password } })
    const path = await setup.call('run', at('vault:secret/data/nowhere#password'))
    expect([path.code, path.log.includes('postgres.password'), path.log.includes('secret/data/nowhere')], path.log).toEqual([
      4,
      true,
      true,
    ])
    await openbaoAdmin(openbao).putSecret(`${database}-empty`, { other: 'x' })
    const field = await setup.call('run', at(`vault:secret/data/${database}-empty#password`))
    expect([field.code, field.log.includes('has no field \\"password\\"')], field.log).toEqual([4, true])
  })

  it('that the vault does not give out end with 3, without the token', async () => {
    await using setup = await withTable(await setUp(postgres))
    const { host, port, user, database } = setup.database
    const settings: Settings = {
      source,
      vault: { address: openbao.address, token: 'not-a-token-at-all' },
      postgres: { host, port, database, user, password: 'vault:secret/data/app#password' },
    }
    const outcome = await setup.call('run', settings)
    expect(outcome.code, outcome.log).toBe(3)
    expect(outcome.log).toContain('VAULT_')
    expect(outcome.log).not.toContain('not-a-token-at-all')
  })
})

describeWith(['postgres'], 'a full disk', ({ postgres }) => {
  let folder = ''
  let mounted = false

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'extractor-full-'))
    mounted = await run('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder]).then(
      () => true,
      () => false,
    )
  })
  afterAll(async () => {
    if (mounted) await run('umount', [folder])
    await rm(folder, { recursive: true })
  })

  it('ends with 8, and leaves room again', async () => {
    await using setup = await withTable(await setUp(postgres), 30_000)
    const settings: Settings = {
      source,
      store: pathToFileURL(folder).href,
      output: { compression: 'none', fileBytes: '256 KiB' },
    }
    await using left = new LocalFolderStore({ folder })
    if (mounted) {
      const outcome = await setup.call('run', settings)
      expect([outcome.code, outcome.log.includes('the disk is full')], outcome.log).toEqual([8, true])
    } else {
      // Where this machine lets nobody mount a small disk, the third file finds none left.
      let room = 2
      const full: ObjectStore = Object.assign(Object.create(left) as LocalFolderStore, {
        put: (...args: Parameters<ObjectStore['put']>) =>
          room-- > 0 ? left.put(...args) : Promise.reject(new CapacityError('the disk is full', { code: 'STORAGE_FULL' })),
      })
      const context = { logger: silentLogger, signal: new AbortController().signal, progress: { update: () => undefined } }
      const config = extractorConfigSchema.parse(setup.config(settings))
      await expect(extract(config, full, context)).rejects.toMatchObject({ outcome: 'capacity' })
    }
    expect(await Array.fromAsync(left.list(''))).toEqual([])
    // With little enough to write it works at once: nothing has kept the room.
    await setup.sql('DELETE FROM audit_log WHERE id > 1000')
    expect((await setup.call('run', settings)).code).toBe(0)
  })
})
