import { describeWith } from '@common-handlers/testkit'
import { expect, it } from 'vitest'
import { literal, type Literal } from '../src/names.ts'
import { ownOutbox } from './own-outbox.ts'

const texts = ['', ' ', "it's", '"', '\\', "\\'", '{a,b}', 'NULL', 'a\nb', '$1', '; --', 'ä€😀', '%s']

describeWith(['postgres'], 'values in the text of statements', ({ postgres }) => {
  const own = ownOutbox(postgres)

  it.each(['on', 'off'])('are what they were, standard_conforming_strings = %s', async (setting) => {
    const client = await own.connect()
    await client.query(`SET standard_conforming_strings = ${setting}`)
    const back = async (value: Literal, type: string): Promise<unknown> =>
      (await client.query<{ value: unknown }>(`SELECT ${literal(value)}::${type} AS value; `)).rows[0]?.value
    for (const text of texts) expect(await back(text, 'text')).toBe(text)
    expect(await back(texts, 'text[]')).toEqual(texts)
    expect(await back([], 'text[]')).toEqual([])
    expect(await back([1n, 9007199254740993n], 'bigint[]')).toEqual(['1', '9007199254740993'])
    expect(await back(true, 'boolean')).toBe(true)
    expect(await back(-1, 'int')).toBe(-1)
    expect(await back(null, 'text')).toBeNull()
    await client.query('RESET standard_conforming_strings')
  })
})
