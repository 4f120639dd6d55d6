import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { createConnections } from '@common-handlers/connections'
import { cassandra, cassandraConfigSchema } from '@common-handlers/cassandra'
import { expect, it } from 'vitest'

const root = join(import.meta.dirname, '..')

it.each([
  [{ username: 'etl' }, 'password'],
  [{ ca: 'PEM' }, 'ca'],
  [{ hosts: ['user:secret@a'] }, 'hosts'],
  [{ hosts: [] }, 'hosts'],
])('refuses %j', (more, key) => {
  const parsed = cassandraConfigSchema.safeParse({ hosts: ['a'], localDataCenter: 'dc1', keyspace: 'shop', ...more })
  expect(parsed.error?.issues.map(({ path }) => path[0])).toEqual([key])
})

it('reads its URL', async () => {
  await using connections = createConnections({ connectors: [cassandra], variables: {} })
  const explained = await connections.explain('cassandra', 'cassandra://etl:p%40ss@a:9142/shop?localDataCenter=dc1&fetchSize=5')
  const given = explained.filter(({ origin }) => origin === 'config').map(({ key, value }) => [key, value])
  expect(Object.fromEntries(given)).toEqual({
    hosts: ['a:9142'],
    localDataCenter: 'dc1',
    keyspace: 'shop',
    username: 'etl',
    password: '[secret]',
    fetchSize: 5,
  })
})

it('has example files that its schema takes', async () => {
  const names = (await readdir(join(root, 'examples'))).filter((name) => /\.(json|yaml)$/.test(name))
  expect(names).toHaveLength(2)
  await using connections = createConnections({ connectors: [cassandra], variables: { CASSANDRA_PASSWORD: 'x' } })
  for (const name of names) {
    const explained = await connections.explain('cassandra', {}, { file: join(root, 'examples', name) })
    expect(explained.find(({ key }) => key === 'keyspace')?.value).toBe('shop')
  }
})
