import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'

const run = promisify(execFile)
const folder = join(import.meta.dirname, '..')
const source = '--conditions=@common-handlers/source'

it('examples/write-a-run.ts', async () => {
  const { stdout } = await run(process.execPath, [source, join(folder, 'examples/write-a-run.ts')])
  expect(stdout).toBe(String.raw`before the manifest: [ false ]
after it: [ true ]
broken row: undefined
2 [ '9007199254740993', 'two\nlines, "quoted"', '1 mon -2 days' ]
3 [ '9007199254740994', null, null ]
id: bigint
note: varchar
took: varchar (months, days and microseconds together have no exact type)
CAST(NULLIF("id", '\N') AS bigint) in Trino, CAST("id" AS BIGINT) in DuckDB
`)
})

it('the example of README.md', async () => {
  const [, code = ''] = /```ts\n([\s\S]*?)```/.exec(await readFile(join(folder, 'README.md'), 'utf8')) ?? []
  const { stdout } = await run(process.execPath, [source, '--input-type=module-typescript', '-e', code], { cwd: folder })
  expect(stdout).toBe(String.raw`1 line
decimal(10,2) · CAST(NULLIF("price", '\N') AS decimal(10,2)) · CAST("price" AS DECIMAL(10,2))
`)
})
