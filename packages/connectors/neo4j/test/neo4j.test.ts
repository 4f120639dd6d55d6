import { execFile } from 'node:child_process'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
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

it('loads its driver with the first client', async () => {
  const code = `
    import { registerHooks } from 'node:module'
    let loaded = false
    registerHooks({ resolve: (name, context, next) => ((loaded ||= name === 'neo4j-driver'), next(name, context)) })
    const { getNeo4jClient } = await import('@common-handlers/neo4j')
    const before = loaded
    await getNeo4jClient('bolt://127.0.0.1:1?connectTimeoutMs=1&attempts=1').catch(() => undefined)
    console.log(before, loaded)`
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--conditions=@common-handlers/source', '--input-type=module', '-e', code],
    { cwd: root },
  )
  expect(stdout).toBe('false true\n')
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
