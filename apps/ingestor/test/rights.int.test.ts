import { startTrino, type TrinoServer } from '@common-handlers/testkit'
import { describeWith } from '@common-handlers/testkit/vitest'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { call } from './program.ts'
import { auditRows, withoutKey, writeRun } from './run-files.ts'
import { trinoWorld } from './trino-world.ts'

const errorOf = (log: string): { code?: string; message?: string } => {
  const failed = log.split('\n').findLast((line) => line.includes('"error"'))
  return failed === undefined ? {} : (JSON.parse(failed) as { error: { code: string; message: string } }).error
}

/** `reader` may read everything and change nothing; everybody else may do everything. */
const accessRules = {
  catalogs: [{ user: 'reader', allow: 'read-only' }, { allow: 'all' }],
  schemas: [{ user: 'reader', owner: false }, { owner: true }],
  tables: [
    { user: 'reader', privileges: ['SELECT'] },
    { privileges: ['SELECT', 'INSERT', 'DELETE', 'UPDATE', 'OWNERSHIP', 'GRANT_SELECT'] },
  ],
}

describeWith(['s3'], 'a user without rights', ({ s3 }) => {
  let trino: TrinoServer | undefined
  beforeAll(async () => {
    trino = await startTrino({ s3, accessRules })
  })
  afterAll(() => trino?.stop())

  it('is refused with what was refused, adds nothing, and the run is loaded by one who may', async () => {
    if (trino === undefined) throw new Error('Trino did not start')
    await using world = await trinoWorld(trino)
    const one = await writeRun(world.store, { columns: withoutKey, files: [auditRows(1, 10)] })
    await world.ingest()
    await writeRun(world.store, { columns: withoutKey, files: [auditRows(11, 5)], previousRunId: one.runId })
    const asReader = { ...world.input, trino: { url: trino.url, ...world.input.trino, user: 'reader' } }

    const refused = await call(['run'], asReader)
    expect(refused.code, refused.log).toBe(3)
    expect(errorOf(refused.log)).toMatchObject({
      code: 'TRINO_PERMISSION_DENIED',
      message: expect.stringContaining('Access Denied') as string,
    })
    const checked = await call(['check'], asReader)
    expect(checked.code, checked.stdout).toBe(1)
    expect(checked.stdout).toContain('Access Denied')
    expect(await world.count()).toBe(10)

    await world.ingest()
    expect(await world.count()).toBe(15)
  })
})
