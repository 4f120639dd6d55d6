export type { ConditionalWrite, ObjectBody, ObjectInfo, ObjectStore, PutOptions, WrittenObject } from './object-store.ts'
