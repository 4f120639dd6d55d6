import { expect, it } from 'vitest'
import { parseStoreUrl } from '../src/index.ts'

it.each([
  ['s3://lake', { kind: 's3', bucket: 'lake', prefix: '' }],
  ['s3://lake/a/b//', { kind: 's3', bucket: 'lake', prefix: 'a/b' }],
  ['file:///data/landing/', { kind: 'folder', url: 'file:///data/landing' }],
  ['file:///', { kind: 'folder', url: 'file:///' }],
  ['file://host/data', undefined],
  ['s3:///prefix', undefined],
  ['s3://lake/a?x=1', undefined],
  ['/data', undefined],
])('parseStoreUrl(%s)', (url, location) => expect(parseStoreUrl(url)).toEqual(location))
