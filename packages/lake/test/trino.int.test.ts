import { randomUUID } from 'node:crypto'
import { S3Handler } from '@common-handlers/s3-handler'
import { describeWith, runOnTrino } from '@common-handlers/testkit'
import { afterAll, expect, it } from 'vitest'
import { Lake } from '../src/index.ts'
import { message } from './items.ts'

describeWith(['trino'], 'a lake read by Trino', ({ trino }) => {
  const { endpoint, region, accessKeyId, secretAccessKey, bucket } = trino.s3
  const prefix = `lake-${randomUUID()}`
  const store = new S3Handler({ endpoint, region, accessKeyId, secretAccessKey, bucket, prefix })
  afterAll(() => store.close())

  it('is a table at the folder of its files', async () => {
    const lake = new Lake({
      store,
      prefix: 'orders',
      columns: { id: 'int64', amount: 'decimal(18,2)', big: 'decimal(38,10)', day: 'date', at: 'timestamp', ok: 'boolean' },
    })
    await lake.write([
      message('0/1', '{"id":9223372036854775807,"amount":-9999999999999999.99,"big":9999999999999999999999999999.9999999999}'),
    ])
    await lake.write([message('0/2', '{"id":1,"day":"2026-11-21","at":"2026-11-21T10:15:30.123457Z","ok":true,"name":"ä"}')])
    const schema = `${trino.stagingCatalog}.lake_${randomUUID().replaceAll('-', '')}`
    await runOnTrino(trino, `CREATE SCHEMA ${schema} WITH (location = '${store.url}/schema')`)
    const columns = 'id bigint, amount decimal(18,2), big decimal(38,10), day date, "at" timestamp(6), ok boolean, data varchar'
    const location = lake.glob.replace('*.parquet', '')
    await runOnTrino(
      trino,
      `CREATE TABLE ${schema}.orders (${columns}) WITH (format = 'PARQUET', external_location = '${location}')`,
    )
    const texts = ['id', 'amount', 'big', 'day', '"at"'].map((name) => `CAST(${name} AS varchar)`).join(', ')
    const { rows } = await runOnTrino(trino, `SELECT ${texts}, ok, data FROM ${schema}.orders o ORDER BY o.id DESC`)
    expect(rows).toEqual([
      [
        '9223372036854775807',
        '-9999999999999999.99',
        '9999999999999999999999999999.9999999999',
        null,
        null,
        null,
        expect.stringContaining('"id":9223372036854775807') as string,
      ],
      ['1', null, null, '2026-11-21', '2026-11-21 10:15:30.123457', true, expect.stringContaining('"name":"ä"') as string],
    ])
    await runOnTrino(trino, `DROP TABLE ${schema}.orders`)
    await runOnTrino(trino, `DROP SCHEMA ${schema}`)
  })
})
