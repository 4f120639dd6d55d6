import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { exactJson, ingestedItem, ingestedItemSchema, ingestionJsonSchema } from '@common-handlers/connections'
import { expect, it } from 'vitest'

const lineage = { protocol: 'p', query: 'q', position: 0 }
const sha256 = (content: string | Uint8Array): string => `sha256:${createHash('sha256').update(content).digest('hex')}`

it('has a published JSON Schema that is current', async () => {
  const published: unknown = JSON.parse(await readFile(new URL('../schema/ingestion-result-v1.json', import.meta.url), 'utf8'))
  expect(published, 'run the script "schema" of this package').toEqual(ingestionJsonSchema())
  expect(published).toMatchObject({ $schema: 'https://json-schema.org/draft/2020-12/schema', additionalProperties: false })
})

it('counts and sums the content: bytes, UTF-8 of a text, JSON of anything else, or what was received', () => {
  const of = (data: unknown, received?: Uint8Array): unknown[] => {
    const item = ingestedItem({ source: 's', data, lineage }, received)
    expect(ingestedItemSchema.parse(item)).toEqual(item)
    return [item.mediaType, item.bytes, item.checksum]
  }
  expect(of(Buffer.from([0, 255]))).toEqual(['application/octet-stream', 2, sha256(Buffer.from([0, 255]))])
  expect(of('ü')).toEqual(['text/plain', 2, sha256('ü')])
  expect(of({ a: 1 })).toEqual(['application/json', 7, sha256('{"a":1}')])
  expect(of({ a: 1 }, Buffer.from('{ "a": 1 }'))).toEqual(['application/json', 10, sha256('{ "a": 1 }')])
})

it('writes JSON with all digits of a bigint, and bytes as base64', () => {
  const data = { id: 9_007_199_254_740_993n, raw: Buffer.from('raw'), more: new Uint8Array([1]), at: new Date(0), list: [1n] }
  expect(exactJson(data)).toBe('{"id":9007199254740993,"raw":"cmF3","more":"AQ==","at":"1970-01-01T00:00:00.000Z","list":[1]}')
})

it('refuses an item that has no checksum', () => {
  const item = ingestedItem({ source: 's', data: 1, lineage })
  expect(ingestedItemSchema.safeParse({ ...item, checksum: 'abc' }).success).toBe(false)
})
