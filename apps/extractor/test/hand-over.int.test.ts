import { setTimeout as sleep } from 'node:timers/promises'
import { PostgresHandler } from '@common-handlers/postgres-handler'
import { createDatabase, describeWith, openbaoAdmin, openbaoDatabase, type OpenBaoDatabase } from '@common-handlers/testkit'
import { VaultHandler } from '@common-handlers/vault-handler'
import { afterAll, beforeAll, expect, it, vi } from 'vitest'
import { startHttpGate } from './http-gate.ts'

// The two handlers know nothing of each other; what this app makes of them together is shown here.

const QUERY_EVERY_MS = 20
const LEASE_MS = 6_000

describeWith(['openbao', 'postgres'], 'database credentials that change', ({ openbao, postgres }) => {
  let engine: OpenBaoDatabase
  let owner: PostgresHandler
  let database: Awaited<ReturnType<typeof createDatabase>>

  beforeAll(async () => {
    engine = await openbaoDatabase(openbao, postgres)
    database = await createDatabase(postgres, 'hand_over')
    const { host, port, user, password } = database
    owner = new PostgresHandler({ host, port, user, password, database: database.database })
  })
  afterAll(async () => {
    await owner?.close()
    await engine?.remove()
    await database?.drop()
  })

  const rolesAmong = async (users: Iterable<string>): Promise<string[]> => {
    const rows = await owner.getRows('SELECT rolname::text FROM pg_roles WHERE rolname = ANY($1::text[])', [[...users]])
    return rows.map(([name]) => String(name))
  }

  /** Fifty queries a second for a while, some of them long; the users they ran as, and what failed. */
  async function load(
    pg: PostgresHandler,
    seconds: number,
  ): Promise<{ queries: number; users: Set<string>; failures: unknown[] }> {
    const users = new Set<string>()
    const failures: unknown[] = []
    const running = new Set<Promise<void>>()
    const began = performance.now()
    let queries = 0
    while (performance.now() - began < seconds * 1000) {
      const pause = queries % 25 === 0 ? 0.3 : 0
      const query = pg
        .getRows('SELECT current_user::text, pg_sleep($1)', [pause])
        .then(
          ([row]) => void users.add(String(row?.[0])),
          (error: unknown) => void failures.push(error),
        )
        .finally(() => running.delete(query))
      running.add(query)
      queries++
      await sleep(Math.max(0, began + queries * QUERY_EVERY_MS - performance.now()))
    }
    await Promise.all(running)
    return { queries, users, failures }
  }

  it.concurrent(
    'fail no query of fifty a second in a minute, and leave no user and no lease behind',
    { timeout: 150_000 },
    async () => {
      const path = await engine.role({ default_ttl: '3s', max_ttl: `${LEASE_MS / 1000}s` })
      const requests: string[] = []
      await using gate = await startHttpGate(openbao.address, (request) => {
        requests.push(request)
        return false
      })
      const vault = new VaultHandler({ address: gate.endpoint, token: openbao.rootToken })
      const lease = await vault.lease(path)
      const lost: unknown[] = []
      let rotations = 0
      lease.on('lost', ({ error }) => lost.push(error))
      lease.on('rotated', () => rotations++)
      const { host, port } = database
      const pg = new PostgresHandler({ host, port, database: database.database, credentials: lease, pool: { max: 10 } })
      const { queries, users, failures } = await load(pg, 60)

      expect(failures).toEqual([])
      expect(lost).toEqual([])
      expect(queries).toBeGreaterThan(2_500)
      expect(users.size).toBeGreaterThanOrEqual(rotations)
      expect(rotations).toBeGreaterThanOrEqual(60_000 / LEASE_MS - 1)
      // While it runs there are the user of today and, for a moment, the one before.
      await vi.waitFor(async () => expect((await rolesAmong(users)).length).toBeLessThanOrEqual(1), { timeout: LEASE_MS })

      await pg.close()
      await lease.close()
      await vault.close()
      await vi.waitFor(async () => expect(await rolesAmong(users)).toEqual([]), { timeout: 30_000, interval: 100 })
      await vi.waitFor(async () => expect(await engine.leases(path)).toBe(0), { timeout: 30_000, interval: 100 })
      // One request that makes each lease and one that revokes it, renewals between one half and two thirds of 3 s, and one
      // look at the token.
      const count = (request: string): number => requests.filter((seen) => seen === request).length
      const leases = count(`GET /v1/${path}`)
      expect(leases).toBeLessThanOrEqual(rotations + 2)
      expect(count('PUT /v1/sys/leases/revoke')).toBe(leases)
      expect(count('PUT /v1/sys/leases/renew')).toBeLessThanOrEqual(leases * 4)
      expect(requests.length).toBeLessThanOrEqual(leases * 6 + 1)
    },
  )

  it.concurrent('fail no query either when it is the password of one account that changes', { timeout: 120_000 }, async () => {
    const { path } = await engine.staticRole({ rotation_period: '5s' })
    await using vault = new VaultHandler({ address: openbao.address, token: openbao.rootToken })
    await using lease = await vault.lease(path)
    let rotations = 0
    lease.on('rotated', () => rotations++)
    const { host, port } = database
    // A connection that is not used for 10 ms is closed, so that there are logins all the time.
    const pool = { max: 10, idleTimeoutMs: 10 }
    await using pg = new PostgresHandler({ host, port, database: database.database, credentials: lease, pool })
    const { users, failures } = await load(pg, 25)
    expect(failures).toEqual([])
    expect(users.size).toBe(1)
    expect(rotations).toBeGreaterThanOrEqual(2)
  })

  it.concurrent('recover when an operator revokes a lease under load', async () => {
    const path = await engine.role({ default_ttl: '1h' })
    await using vault = new VaultHandler({ address: openbao.address, token: openbao.rootToken })
    await using lease = await vault.lease(path)
    const { host, port } = database
    await using pg = new PostgresHandler({
      host,
      port,
      database: database.database,
      credentials: lease,
      pool: { idleTimeoutMs: 10 },
    })
    const [before] = await pg.getRows('SELECT current_user::text')
    await sleep(50)
    await openbaoAdmin(openbao).request('PUT', 'sys/leases/revoke', { lease_id: lease.leaseId, sync: true })
    // The next login is refused, which the lease is told of: the query that waited for it does not notice.
    const [after] = await pg.getRows('SELECT current_user::text')
    expect(after).not.toEqual(before)
    expect(after?.[0]).toBe(lease.value['username'])
  })
})
