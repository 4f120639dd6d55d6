import type { ObjectInfo, ObjectStore, PutOptions, ConditionalWrite, WrittenObject } from '@common-handlers/storage'
import { expectTypeOf, it } from 'vitest'
import type { S3ConditionalWrite, S3Handler, S3ObjectInfo, S3PutOptions, S3WrittenObject } from '../src/index.ts'

it('fits the contract of storage, without depending on it', () => {
  expectTypeOf<S3Handler>().toExtend<ObjectStore>()
  expectTypeOf<Pick<S3Handler, keyof ObjectStore>>().toExtend<ObjectStore>()
  expectTypeOf<S3ObjectInfo>().toEqualTypeOf<ObjectInfo>()
  expectTypeOf<S3WrittenObject>().toEqualTypeOf<WrittenObject>()
  expectTypeOf<S3ConditionalWrite>().toEqualTypeOf<ConditionalWrite>()
  expectTypeOf<PutOptions>().toExtend<S3PutOptions>()
  expectTypeOf<Parameters<ObjectStore['put']>>().toExtend<Parameters<S3Handler['put']>>()
  expectTypeOf<Parameters<S3Handler['get']>>().toExtend<Parameters<ObjectStore['get']>>()
  expectTypeOf<Parameters<ObjectStore['get']>>().toExtend<Parameters<S3Handler['get']>>()
  expectTypeOf<Parameters<ObjectStore['putIfAbsent']>>().toExtend<Parameters<S3Handler['putIfAbsent']>>()
  expectTypeOf<Parameters<ObjectStore['putIfMatch']>>().toExtend<Parameters<S3Handler['putIfMatch']>>()
})
