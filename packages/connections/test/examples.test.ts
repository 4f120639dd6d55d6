import { execFile } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { createConnections } from '@common-handlers/connections'
import { expect, it } from 'vitest'

const run = promisify(execFile)
const folder = join(import.meta.dirname, '..')
const source = '--conditions=@common-handlers/source'

it('examples/pages.ts', async () => {
  const { stdout } = await run(process.execPath, [source, join(folder, 'examples/pages.ts')])
  expect(stdout).toBe(`0 1 { id: 1, amount: 10 }
1 2 { id: 2, amount: 20 }
2 3 { id: 3, amount: 30 }
3 4 { id: 4, amount: 40 }
4 5 { id: 5, amount: 50 }
5 6 { id: 6, amount: 60 }
CONNECTIONS_PROTOCOL_UNKNOWN
`)
})

it('the example of README.md', async () => {
  const [, code = ''] = /```ts\n([\s\S]*?)```/.exec(await readFile(join(folder, 'README.md'), 'utf8')) ?? []
  const { stdout } = await run(process.execPath, [source, '--input-type=module-typescript', '-e', code], { cwd: folder })
  expect(stdout).toBe(`9007199254740993 { id: 9007199254740993n }
2 { id: 2 }
45
`)
})

it('has example files that the schema of http takes', async () => {
  const names = (await readdir(join(folder, 'examples'))).filter((name) => /\.(json|yaml)$/.test(name))
  expect(names).toHaveLength(2)
  const secrets = { API_TOKEN: 'of the example' }
  const resolvers = { file: () => 'of the example' }
  await using connections = createConnections({ variables: secrets, resolvers })
  for (const name of names) {
    const explained = await connections.explain('http', {}, { file: join(folder, 'examples', name) })
    expect(explained.find(({ key }) => key === 'baseUrl')?.value).toBe('https://api.example.com/v2')
  }
})

it('loads no driver before it is asked for', async () => {
  const code = `
    import { createRequire } from 'node:module'
    import { createConnections } from '@common-handlers/connections'
    const loaded = () => Object.keys(createRequire('file:///x').cache).some((file) => file.includes('/undici/'))
    const before = loaded()
    await (await createConnections().getConnection('http', 'http://localhost')).close()
    console.log(before, loaded())`
  const { stdout } = await run(process.execPath, [source, '--input-type=module', '-e', code], {
    cwd: folder,
  })
  expect(stdout).toBe('false true\n')
})
