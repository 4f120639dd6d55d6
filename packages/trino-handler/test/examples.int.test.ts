import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describeWith } from '@common-handlers/testkit'
import { expect, it } from 'vitest'

const run = promisify(execFile)

describeWith(['trino'], 'examples', ({ trino: { url, user, catalog } }) => {
  const example = async (file: string): Promise<string> => {
    const script = join(import.meta.dirname, '../examples', file)
    return (await run(process.execPath, ['--conditions=@common-handlers/source', script, url, user, catalog])).stdout
  }

  it('query.ts', async () => {
    expect(await example('query.ts')).toMatchInlineSnapshot(`
      "FRANCE           36  140663.20
      GERMANY          57  243965.66
      ROMANIA          64  252226.32
      RUSSIA           59  254970.92
      UNITED KINGDOM   56  214384.24
      28 orders up to number 100
      "
    `)
  })

  it('exactly-once.ts', async () => {
    expect(await example('exactly-once.ts')).toBe('submitted, state unknown\nwrote 1000 rows; the snapshot added 1000n\n')
  })
})
