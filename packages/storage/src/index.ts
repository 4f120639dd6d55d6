export type { LocalFolderStoreOptions } from './config.ts'
export { LocalFolderStore } from './local-folder-store.ts'
export { MemoryStore } from './memory-store.ts'
export type { ConditionalWrite, ObjectBody, ObjectInfo, ObjectStore, PutOptions, WrittenObject } from './object-store.ts'
