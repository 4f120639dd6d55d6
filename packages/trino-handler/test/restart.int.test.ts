import { describeWith, startTrino } from '@common-handlers/testkit'
import { expect, it } from 'vitest'
import { currentSnapshot, ident, snapshotByQueryId, sql, tableIdent, type TableName, TrinoHandler } from '../src/index.ts'

// A server of its own, since it is killed; its tables lie in the shared store.
describeWith(['trino'], 'a Trino that is killed in the middle', ({ trino: { s3 } }) => {
  it('loses the statement and nothing else; what follows waits until it is back', { timeout: 400_000 }, async () => {
    await using server = await startTrino({ s3 })
    const { url, user, catalog } = server
    await using trino = new TrinoHandler({ url, user, retry: { attempts: 1_000, budgetMs: 240_000, maxDelayMs: 1_000 } })
    const table: TableName = { catalog, schema: `restart_${crypto.randomUUID().slice(0, 8)}`, table: 'orders' }
    const name = tableIdent(table)
    await trino.execute(sql`CREATE SCHEMA ${ident(catalog, table.schema)}`)
    await trino.execute(`CREATE TABLE ${name} AS SELECT orderkey, comment FROM tpch.tiny.orders`)
    const before = await currentSnapshot(trino, table)

    for (const write of [`INSERT INTO ${name}`, `CREATE OR REPLACE TABLE ${name} AS`]) {
      const submitted = await trino.submit(`${write} SELECT orderkey, comment FROM tpch.sf100.orders`)
      let restart: Promise<void> | undefined
      const followed = submitted.follow({
        onProgress: ({ processedRows }) => {
          if (processedRows > 100_000) restart ??= server.restart()
        },
      })
      await expect(followed).rejects.toMatchObject({
        code: 'TRINO_QUERY_LOST',
        retry: 'if-idempotent',
        context: { queryId: submitted.queryId },
      })
      // The server may still be starting: these wait for it.
      expect(await trino.query(`SELECT count(*) AS n FROM ${name}`)).toMatchObject({ rows: [{ n: 15_000n }] })
      expect(await snapshotByQueryId(trino, table, submitted.queryId)).toBeUndefined()
      expect(await trino.queryState(submitted.queryId)).toBe('unknown')
      expect(await currentSnapshot(trino, table)).toEqual(before)
      expect(restart).toBeDefined()
      await restart
    }
    await trino.execute(sql`DROP SCHEMA ${ident(catalog, table.schema)} CASCADE`)
  })
})
