// Writes objects into a folder, and lets two writers race for one name. The folder may be given: node examples/claim.ts /tmp/store
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { LocalFolderStore } from '@common-handlers/storage'

await using store = new LocalFolderStore({ folder: process.argv[2] ?? (await mkdtemp(join(tmpdir(), 'store-'))) })

async function* rows(): AsyncGenerator<Uint8Array> {
  yield Buffer.from('id,name\n')
  for (let id = 1; id <= 3; id++) yield Buffer.from(`${id},row ${id}\n`)
}
const { size } = await store.put('report/part-0.csv', rows())
console.log(`wrote ${size} bytes`)

const answers = await Promise.all(['one', 'two'].map((owner) => store.putIfAbsent('claim.json', JSON.stringify({ owner }))))
console.log(`writers that got the claim: ${answers.filter((answer) => answer.written).length}`)

const { bytes, etag } = await store.getBytes('claim.json')
const mine = await store.putIfMatch('claim.json', bytes.toString().replace('}', ',"done":true}'), etag)
const late = await store.putIfMatch('claim.json', '{}', etag)
console.log(`with the etag that was read: ${mine.written}, with the same one again: ${late.written}`)

for await (const info of store.list('')) console.log(info.key)
