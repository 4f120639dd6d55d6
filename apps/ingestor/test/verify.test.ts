import { type Manifest, runPrefix } from '@common-handlers/dataset'
import { MemoryStore } from '@common-handlers/storage'
import { expect, it } from 'vitest'
import { verifyFiles } from '../src/verify.ts'
import { auditRows, writeRun } from './run-files.ts'

const verify = (store: MemoryStore, run: Manifest, whole = false): Promise<{ read: number }> =>
  verifyFiles(store, run, { signal: new AbortController().signal, whole })

const keyOf = (run: Manifest, file: number): string => `${runPrefix(run.dataset, run.runId)}${run.files[file]?.name ?? ''}`

it('trusts the checksum of the store, and reads the bytes when asked to', async () => {
  const store = new MemoryStore()
  const run = await writeRun(store, { files: [auditRows(1, 3), auditRows(4, 3)] })
  expect(await verify(store, run)).toEqual({ read: 0 })
  expect(await verify(store, run, true)).toEqual({ read: 2 })
})

it('reads the bytes when the store answers another checksum, and accepts the same content', async () => {
  const store = new MemoryStore()
  const run = await writeRun(store)
  const moved = { ...run, files: run.files.map((file) => ({ ...file, etag: '"of another store"' })) }
  expect(await verify(store, moved)).toEqual({ read: 1 })
})

it('names the file that is missing, longer, changed or unknown', async () => {
  const store = new MemoryStore()
  const run = await writeRun(store, { files: [auditRows(1, 3), auditRows(4, 3)] })
  const key = keyOf(run, 1)
  const { bytes } = await store.getBytes(key)
  const where = { file: `${store.url}/${key}` }
  await store.delete(key)
  await expect(verify(store, run)).rejects.toMatchObject({ code: 'INGESTOR_FILE_MISSING', outcome: 'data', where })
  await store.put(key, Buffer.concat([bytes, Buffer.from('x')]))
  await expect(verify(store, run)).rejects.toMatchObject({ code: 'INGESTOR_FILE_SIZE', where })
  await store.put(key, Buffer.alloc(bytes.length))
  await expect(verify(store, run)).rejects.toMatchObject({ code: 'INGESTOR_FILE_CHECKSUM', where })
  await store.put(key, bytes)
  await store.put(`${runPrefix(run.dataset, run.runId)}other.csv`, 'x')
  await expect(verify(store, run)).rejects.toMatchObject({ code: 'INGESTOR_FILE_UNKNOWN' })
})
