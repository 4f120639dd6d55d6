import { randomUUID } from 'node:crypto'
import { S3Handler } from '@common-handlers/s3-handler'
import { committedNumbers, describeWith } from '@common-handlers/testkit'
import { afterAll, expect, it } from 'vitest'
import { Lake } from '../src/index.ts'
import { messages } from './items.ts'

describeWith(['s3'], 'a lake on S3', ({ s3 }) => {
  const { endpoint, region, accessKeyId, secretAccessKey, bucket } = s3
  const store = new S3Handler({ endpoint, region, accessKeyId, secretAccessKey, bucket, prefix: `lake-${randomUUID()}` })
  afterAll(() => store.close())

  it('has each item once, whatever two writers do at the same time, and tells where its files are', async () => {
    const open = (): Lake => new Lake({ store, prefix: 'orders', columns: { id: 'int64' } })
    const [one, two] = [open(), open()]
    const writes = Array.from({ length: 6 }, (_, index) => [
      one.write(messages(index * 40, index * 40 + 60)),
      two.write(messages(index * 40 + 20, index * 40 + 80)),
    ])
    const results = await Promise.all(writes.flat())
    expect(results.reduce((sum, { rows }) => sum + rows, 0)).toBe(280)
    expect(await committedNumbers(one, store, 'id')).toEqual(Array.from({ length: 280 }, (_, index) => index))
    expect(await open().recover()).toEqual({ batches: results.filter(({ batch }) => batch !== undefined).length, finished: 0 })
    expect(one.glob).toBe(`${store.url}/orders/data/*.parquet`)
    expect(one.glob).toMatch(/^s3:\/\//)
    await Promise.all([one.close(), two.close()])
  })
})
