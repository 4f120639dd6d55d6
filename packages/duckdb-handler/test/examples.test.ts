import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'

const run = promisify(execFile)
const folder = join(import.meta.dirname, '..')
const source = '--conditions=@common-handlers/source'

it('examples/load-csv.ts', async () => {
  const { stdout } = await run(process.execPath, [source, join(folder, 'examples/load-csv.ts')])
  expect(stdout).toBe(`loaded 3 rows
{ origin: 'ORD', newest: 9007199254740993n, delay: '-3.25' }
{ origin: 'SFO', newest: 2n, delay: '12.50' }
open the database: v1.5.6, make a table, and take it back: 1 tables
`)
})

it('the example of README.md', async () => {
  const [, code = ''] = /```ts\n([\s\S]*?)```/.exec(await readFile(join(folder, 'README.md'), 'utf8')) ?? []
  const { stdout } = await run(process.execPath, [source, '--input-type=module-typescript', '-e', code], { cwd: folder })
  expect(stdout).toBe(`[ { id: 9007199254740993n, delay: '12.50' } ]\n`)
})
