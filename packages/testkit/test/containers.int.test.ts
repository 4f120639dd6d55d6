import { afterAll, beforeAll, expect, it, vi } from 'vitest'
import {
  createDatabase,
  describeWith,
  openbaoAdmin,
  runOnPostgres,
  s3Request,
  startOpenBao,
  startPostgres,
  startSeaweedfs,
  startVersitygw,
} from '../src/index.ts'
import { type ContainerService, startContainerService } from './container-service.ts'

// The launchers where there are no binaries: the same servers, in containers by testcontainers.

describeWith(['engine'], 'a server in a container', ({ engine }) => {
  let service: ContainerService

  beforeAll(async () => {
    service = await startContainerService(engine)
    for (const [name, value] of Object.entries({ ...service.environment, TESTCONTAINERS: '1' })) vi.stubEnv(name, value)
  }, 900_000)
  afterAll(async () => {
    vi.unstubAllEnvs()
    await service?.[Symbol.asyncDispose]()
  })

  it('PostgreSQL takes its password and settings, and is gone after stop', async () => {
    await using server = await startPostgres({ settings: { max_connections: '20' } })
    const database = await createDatabase(server)
    await runOnPostgres(
      database,
      `DO $$ BEGIN ASSERT current_setting('wal_level') = 'logical' AND current_setting('max_connections') = '20'; END $$`,
    )
    expect(await server.logTail()).toContain('ready to accept connections')
    expect(await server.pids()).toEqual([])
    await expect(server.restart()).rejects.toThrow('not taken down and up again')
    await server.stop()
    await server.stop()
    await expect(runOnPostgres(server, 'SELECT 1')).rejects.toThrow(/ECONNREFUSED/)
  })

  it('OpenBao keeps a secret, and is sealed and unsealed by its key', async () => {
    await using server = await startOpenBao()
    const bao = openbaoAdmin(server)
    await bao.putSecret('app', { user: 'a' })
    await bao.seal()
    await bao.unseal()
    expect(await bao.request('GET', 'secret/data/app')).toMatchObject({ status: 200, body: { data: { data: { user: 'a' } } } })
  })

  it('versitygw has its bucket', async () => {
    await using server = await startVersitygw()
    expect((await s3Request(server, 'PUT', `${server.bucket}/key`, { body: 'text' })).status).toBe(200)
    expect(await (await s3Request(server, 'GET', `${server.bucket}/key`)).text()).toBe('text')
  })

  it('SeaweedFS has its bucket and its catalog', async () => {
    await using server = await startSeaweedfs()
    expect((await s3Request(server, 'PUT', `${server.bucket}/key`, { body: 'text' })).status).toBe(200)
    expect(await (await s3Request(server, 'GET', `${server.bucket}/key`)).text()).toBe('text')
    const catalog = await fetch(`${server.catalogUri}/v1/config?warehouse=s3://${server.tableBucket}`)
    expect([200, 401]).toContain(catalog.status)
  })
})
