import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { configKeys } from '@common-handlers/core'
import { describeWith } from '@common-handlers/testkit'
import { expect, it } from 'vitest'
import { postgresConfigSchema } from '../src/index.ts'
import { ownDatabase } from './own-database.ts'

const run = promisify(execFile)

describeWith(['postgres'], 'the documentation', ({ postgres }) => {
  const db = ownDatabase(postgres)

  it('has an example that runs', async () => {
    const script = fileURLToPath(new URL('../examples/audit-log.ts', import.meta.url))
    const env = { ...process.env, POSTGRES_URL: db.address.url }
    const { stdout } = await run(process.execPath, ['--conditions=@common-handlers/source', script], { env })
    expect(stdout).toBe(`{
  id: 9007199254740993n,
  at: '2026-01-01 00:00:00.123456+00',
  amount: '10.50',
  entry: '{"a": 1}'
}
{
  id: 9007199254740994n,
  at: '2026-01-01 00:00:00.123456+00',
  amount: '10.50',
  entry: '{"note": "two\\\\nlines"}'
}
id bigint, at timestamp with time zone, amount numeric(12,2), entry jsonb
2 rows, 148 bytes
`)
  })

  it('has an example that moves a table', async () => {
    const script = fileURLToPath(new URL('../examples/move-table.ts', import.meta.url))
    const env = { ...process.env, POSTGRES_URL: db.address.url }
    const { stdout } = await run(process.execPath, ['--conditions=@common-handlers/source', script], { env })
    expect(stdout).toBe(`10000 inserted
4 readers copied 10000 rows
{ id: 0n, at: 1970-01-01T00:00:00.000Z, tags: [ 'a', null ] }
line 2, column at: invalid input syntax for type timestamp with time zone: "no time" [22007]
`)
  })

  it('names every option', async () => {
    const readme = await readFile(new URL('../README.md', import.meta.url), 'utf8')
    const missing = configKeys(postgresConfigSchema).filter((key) => !readme.includes(`\`${key.path.join('.')}\``))
    expect(missing.map((key) => key.path.join('.'))).toEqual([])
  })
})
