import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { createConnections } from '@common-handlers/connections'
import { neo4j, neo4jConfigSchema } from '@common-handlers/neo4j'
import { expect, it } from 'vitest'

const root = join(import.meta.dirname, '..')

it.each([
  [{ username: 'etl' }, 'password'],
  [{ ca: 'PEM' }, 'ca'],
  [{ token: 't', username: 'etl', password: 'p' }, 'token'],
  [{ host: 'user:secret@a' }, 'host'],
  [{ host: 'a:7687' }, 'host'],
])('refuses %j', (more, key) => {
  const parsed = neo4jConfigSchema.safeParse({ host: 'a', ...more })
  expect(parsed.error?.issues.map(({ path }) => path[0])).toEqual([key])
})

it('reads its URL', async () => {
  await using connections = createConnections({ connectors: [neo4j], variables: {} })
  const explained = await connections.explain('neo4j', 'neo4j+s://etl:p%40ss@graph.example/shop?fetchSize=5')
  const given = explained.filter(({ origin }) => origin === 'config').map(({ key, value }) => [key, value])
  expect(Object.fromEntries(given)).toEqual({
    host: 'graph.example',
    routing: true,
    tls: true,
    database: 'shop',
    username: 'etl',
    password: '[secret]',
    fetchSize: 5,
  })
})

it('has example files that its schema takes', async () => {
  const names = (await readdir(join(root, 'examples'))).filter((name) => /\.(json|yaml)$/.test(name))
  expect(names).toHaveLength(2)
  await using connections = createConnections({ connectors: [neo4j], variables: { NEO4J_PASSWORD: 'x' } })
  for (const name of names) {
    const explained = await connections.explain('neo4j', {}, { file: join(root, 'examples', name) })
    expect(explained.find(({ key }) => key === 'database')?.value).toBe('shop')
  }
})
