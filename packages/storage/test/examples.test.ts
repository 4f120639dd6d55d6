import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'

const run = promisify(execFile)
const folder = join(import.meta.dirname, '..')
const source = '--conditions=@common-handlers/source'

it('examples/claim.ts', async () => {
  const { stdout } = await run(process.execPath, [source, join(folder, 'examples/claim.ts')])
  expect(stdout).toBe(
    'wrote 32 bytes\nwriters that got the claim: 1\nwith the etag that was read: true, with the same one again: false\nclaim.json\nreport/part-0.csv\n',
  )
})

it('the example of README.md', async () => {
  const [, code = ''] = /```ts\n([\s\S]*?)```/.exec(await readFile(join(folder, 'README.md'), 'utf8')) ?? []
  const { stdout } = await run(process.execPath, [source, '--input-type=module-typescript', '-e', code], { cwd: folder })
  expect(stdout).toBe('report/part-0.csv 5\nmine\n')
})
