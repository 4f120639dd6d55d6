// Writes one batch to the folder it is given, and is killed before its manifest is written.
import { LocalFolderStore } from '@common-handlers/storage'
import { Lake, type LakeStore } from '../src/index.ts'
import { messages } from './items.ts'

const folder = new LocalFolderStore({ folder: process.argv[2] ?? '' })
const store: LakeStore = {
  url: folder.url,
  getBytes: (key) => folder.getBytes(key),
  list: (prefix) => folder.list(prefix),
  putIfAbsent: (key, body) => {
    if (key.includes('_manifests/')) process.kill(process.pid, 'SIGKILL')
    return folder.putIfAbsent(key, body)
  },
}
await new Lake({ store }).write(messages(0, 10))
