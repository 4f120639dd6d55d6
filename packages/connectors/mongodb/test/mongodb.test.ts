import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { createConnections } from '@common-handlers/connections'
import { mongodb, mongodbConfigSchema } from '@common-handlers/mongodb'
import { expect, it } from 'vitest'
import { BSON } from '../src/driver.ts'
import { toDocument, toValue } from '../src/values.ts'

const root = join(import.meta.dirname, '..')

it('takes no date that it cannot give exactly', () => {
  // BSON by hand: the length, a date named "at" of the highest integer, the end.
  const bytes = Buffer.from('11000000096174 00 ffffffffffffff7f 00'.replaceAll(' ', ''), 'hex')
  expect(() => toDocument(BSON.deserialize(bytes))).toThrow('the field "at" holds a date further from 1970')
})

it('gives what JSON has no form for as Extended JSON', () => {
  const values = [
    new BSON.MinKey(),
    new BSON.Code('a()', { b: BSON.Long.fromString('1') }),
    new BSON.DBRef('c', new BSON.ObjectId('0'.repeat(24))),
  ]
  expect(values.map((value) => toValue(value))).toEqual([
    { $minKey: 1 },
    { $code: 'a()', $scope: { b: { $numberLong: '1' } } },
    { $ref: 'c', $id: { $oid: '0'.repeat(24) } },
  ])
})

it.each([
  [{ username: 'etl' }, 'password'],
  [{ ca: 'PEM' }, 'ca'],
  [{ srv: true, hosts: ['a:1'] }, 'srv'],
  [{ directConnection: true, hosts: ['a', 'b'] }, 'directConnection'],
  [{ hosts: ['user:secret@a'] }, 'hosts'],
])('refuses %j', (more, key) => {
  const parsed = mongodbConfigSchema.safeParse({ hosts: ['a'], database: 'shop', ...more })
  expect(parsed.error?.issues.map(({ path }) => path[0])).toEqual([key])
})

it('reads its URL', async () => {
  await using connections = createConnections({ connectors: [mongodb], variables: {} })
  const explained = await connections.explain('mongodb', 'mongodb+srv://etl:p%40ss@cluster.example/shop?readPreference=secondary')
  const given = explained.filter(({ origin }) => origin === 'config').map(({ key, value }) => [key, value])
  expect(Object.fromEntries(given)).toEqual({
    hosts: ['cluster.example'],
    srv: true,
    tls: true,
    database: 'shop',
    username: 'etl',
    password: '[secret]',
    readPreference: 'secondary',
  })
})

it('has example files that its schema takes', async () => {
  const names = (await readdir(join(root, 'examples'))).filter((name) => /\.(json|yaml)$/.test(name))
  expect(names).toHaveLength(2)
  await using connections = createConnections({ connectors: [mongodb], variables: { MONGODB_PASSWORD: 'x' } })
  for (const name of names) {
    const explained = await connections.explain('mongodb', {}, { file: join(root, 'examples', name) })
    expect(explained.find(({ key }) => key === 'database')?.value).toBe('shop')
  }
})
