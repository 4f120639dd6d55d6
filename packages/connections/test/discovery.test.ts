import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { createConnections } from '@common-handlers/connections'
import { afterAll, beforeAll, expect, it } from 'vitest'

let project: string

const zod = pathToFileURL(createRequire(import.meta.url).resolve('zod')).href

const connector = (protocol: string): string => `
  import { z } from '${zod}'
  export const ${protocol} = {
    protocol: '${protocol}', prefix: '${protocol.toUpperCase()}', packageName: '${protocol}-connector',
    configSchema: z.strictObject({}),
    open: async () => ({ name: '${protocol}', close: async () => undefined }),
    test: async () => ({ target: '', ok: true, durationMs: 0, steps: [] }),
    fetch: async function* () {},
  }`

async function install(name: string, protocol: string | undefined, code: string, folder = project): Promise<void> {
  const target = join(folder, 'node_modules', name)
  await mkdir(target, { recursive: true })
  const manifest = {
    name,
    type: 'module',
    exports: './index.js',
    ...(protocol === undefined ? {} : { 'common-handlers': { protocol } }),
  }
  await writeFile(join(target, 'package.json'), JSON.stringify(manifest))
  await writeFile(join(target, 'index.js'), code)
}

beforeAll(async () => {
  project = await mkdtemp(join(tmpdir(), 'project-'))
  await mkdir(join(project, 'src'))
  const dependencies = { 'clock-connector': '1', '@acme/broken': '1', 'wrong-connector': '1', plain: '1', 'not-installed': '1' }
  await writeFile(join(project, 'package.json'), JSON.stringify({ name: 'project', dependencies }))
  await writeFile(join(project, 'package-lock.json'), '{}')
  await install('clock-connector', 'clock', connector('clock'))
  await install('@acme/broken', 'broken', `throw new Error('its driver is missing')`)
  await install('wrong-connector', 'wrong', 'export const other = 1')
  await install('plain', undefined, `throw new Error('imported')`)
  // Installed for somebody else: the project does not depend on it.
  await install('stranger-connector', 'stranger', connector('stranger'))
})
afterAll(() => rm(project, { recursive: true, force: true }))

it('finds the connectors that a project depends on, and imports the one that is asked for alone', async () => {
  await using connections = createConnections({ discover: join(project, 'src'), variables: {} })
  expect(connections.protocols).toEqual(['broken', 'clock', 'http', 'wrong'])
  const found = connections as unknown as { getConnection(protocol: string): Promise<{ name: string }> }
  expect((await found.getConnection('clock')).name).toBe('clock')
})

it('says what is wrong with one that cannot be used', async () => {
  await using connections = createConnections({ discover: project, variables: {} })
  const found = connections as unknown as { getConnection(protocol: string): Promise<unknown> }
  await expect(found.getConnection('broken')).rejects.toMatchObject({
    code: 'CONNECTIONS_CONNECTOR_UNUSABLE',
    message: '@acme/broken says that it is the connector for "broken", but cannot be loaded: its driver is missing',
  })
  await expect(found.getConnection('wrong')).rejects.toThrow('but exports no "wrong" that fits')
})

it('answers an absent protocol with those that are there and the command that installs it', async () => {
  await using connections = createConnections({ discover: project, variables: {} })
  const found = connections as unknown as { getConnection(protocol: string): Promise<unknown> }
  await expect(found.getConnection('sqlite')).rejects.toMatchObject({
    code: 'CONNECTIONS_PROTOCOL_UNKNOWN',
    message:
      'there is no connector for "sqlite" here; there are: broken, clock, http, wrong. Install it: npm install @common-handlers/sqlite',
  })
  await writeFile(join(project, 'pnpm-lock.yaml'), '')
  await expect(found.getConnection('kafka')).rejects.toThrow('Install it: pnpm add @common-handlers/kafka')
  await expect(found.getConnection('stranger')).rejects.toThrow('there is no connector for "stranger" here')
})

it('knows every connector of this repository', async () => {
  const folder = join(import.meta.dirname, '../../connectors')
  const published: string[] = []
  for (const name of await readdir(folder)) {
    const manifest = JSON.parse(await readFile(join(folder, name, 'package.json'), 'utf8')) as { private?: boolean }
    if (manifest.private !== true) published.push(name)
  }
  const known = createConnections({ discover: false, variables: {} }).available()
  expect(known.map(({ protocol }) => protocol).filter((protocol) => protocol !== 'http')).toEqual(published.toSorted())
})
