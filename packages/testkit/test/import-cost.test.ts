import { execFile } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'
import { root } from './workspace-build.ts'

// A protocol that is not used costs no import time: the façade and a connector load zod, and no driver before a connection
// is opened.

const folder = join(root, 'packages/connectors')
const indexes = readdirSync(folder)
  .map((name) => ({ name, index: join(folder, name, 'src/index.ts') }))
  .filter(({ index }) => existsSync(index))
const facade = join(root, 'packages/connections/src/index.ts')

/** Imports files one after the other in a process of their own; says which packages and which of Node's own drivers are loaded after each. */
async function loadedBy(files: readonly string[]): Promise<{ packages: string[]; builtins: string[] }[]> {
  const code = `
    import { registerHooks } from 'node:module'
    const packages = new Set()
    registerHooks({
      load(url, context, next) {
        const [, name] = url.match(/.*\\/node_modules\\/((?:@[^/]+\\/)?[^/]+)\\//) ?? []
        if (name !== undefined) packages.add(name)
        return next(url, context)
      },
    })
    const found = []
    for (const url of ${JSON.stringify(files.map((file) => pathToFileURL(file).href))}) {
      await import(url)
      const builtins = process.moduleLoadList.map((name) => name.replace(/^NativeModule /, '')).filter((name) => name === 'sqlite')
      found.push({ packages: [...packages].sort(), builtins })
    }
    console.log(JSON.stringify(found))`
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--conditions=@common-handlers/source', '--input-type=module', '-e', code],
    { cwd: root },
  )
  return JSON.parse(stdout) as { packages: string[]; builtins: string[] }[]
}

it('sees what is loaded', async () => {
  const drivers = [
    join(root, 'packages/connections/src/http/transport.ts'),
    join(folder, 'soap/src/client.ts'),
    join(folder, 'sqlite/src/engine.ts'),
  ]
  const found = await loadedBy(drivers)
  expect(found[0]?.packages).toContain('undici')
  expect(found[1]?.packages).toEqual(expect.arrayContaining(['axios', 'soap']))
  expect(found[2]?.builtins).toEqual(['sqlite'])
})

it('loads zod with the façade and each connector, and nothing else', async () => {
  expect(indexes.length).toBeGreaterThan(2)
  const found = await loadedBy([facade, ...indexes.map(({ index }) => index)])
  const names = ['connections', ...indexes.map(({ name }) => name)]
  expect(found.map((loaded, position) => [names[position], loaded])).toEqual(
    names.map((name) => [name, { packages: ['zod'], builtins: [] }]),
  )
})
