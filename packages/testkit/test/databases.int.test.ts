import { describeWith, runOnNeo4j, startCassandra, startNeo4j } from '@common-handlers/testkit'
import { afterAll, expect, it } from 'vitest'
import { loginToCassandra } from '../src/servers/cassandra.ts'
import { cleanEnd, endOf } from './end-of-server.ts'

describeWith([], 'startNeo4j', async () => {
  const server = await startNeo4j()
  afterAll(() => server.stop())

  it('keeps a node, refuses the password that it came with, and knows users whose password is at its end', async () => {
    await runOnNeo4j(server, 'CREATE (:Order {id: $id})', { parameters: { id: 7 } })
    expect(await runOnNeo4j(server, 'MATCH (order:Order) RETURN order.id, 1')).toEqual([[7, 1]])
    await expect(runOnNeo4j({ ...server, password: 'neo4j' }, 'RETURN 1')).rejects.toThrow('Security.Unauthorized')
    await runOnNeo4j(server, `CREATE USER late SET PASSWORD 'to be changed'`, { database: 'system' })
    const late = { ...server, user: 'late', password: 'to be changed' }
    await expect(runOnNeo4j(late, 'RETURN 1')).rejects.toThrow('Security.CredentialsExpired')
  })

  it('ends', async () => {
    expect(await endOf(server)).toEqual(cleanEnd)
  })
})

describeWith([], 'startCassandra', async () => {
  const server = await startCassandra()
  afterAll(() => server.stop())

  it('asks for a password', async () => {
    await loginToCassandra(server, AbortSignal.timeout(10_000))
    const wrong = loginToCassandra({ ...server, password: 'wrong' }, AbortSignal.timeout(10_000))
    await expect(wrong).rejects.toThrow('Provided username cassandra and/or password are incorrect')
  })

  it('ends', async () => {
    expect(await endOf(server)).toEqual(cleanEnd)
  })
})
