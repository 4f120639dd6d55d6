import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, it } from 'vitest'
import { LocalFolderStore, MemoryStore } from '@common-handlers/storage'
import { objectStoreConformance } from '@common-handlers/storage/conformance'

const folder = await mkdtemp(join(tmpdir(), 'storage-'))
afterAll(() => rm(folder, { recursive: true }))

objectStoreConformance({ describe, it }, { title: 'MemoryStore', open: () => new MemoryStore() })
objectStoreConformance({ describe, it }, { title: 'LocalFolderStore', open: () => new LocalFolderStore({ folder }) })
objectStoreConformance(
  { describe, it },
  { title: 'LocalFolderStore without fsync', open: () => new LocalFolderStore({ folder, fsync: false }) },
)
