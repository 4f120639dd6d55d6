// Syncs a folder to a prefix, reads the rows of a compressed CSV, and makes an address that anybody may read for a minute.
//   S3_ENDPOINT=http://127.0.0.1:9000 S3_BUCKET=lake AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… node examples/rows-and-folders.ts
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { S3Handler } from '@common-handlers/s3-handler'

await using s3 = new S3Handler({
  bucket: process.env['S3_BUCKET'] ?? 'lake',
  prefix: process.env['S3_PREFIX'] ?? 'example',
  endpoint: process.env['S3_ENDPOINT'],
})

const folder = await mkdtemp(join(tmpdir(), 'rows-'))
await writeFile(join(folder, 'people.csv.gz'), gzipSync('id,name\n1,"Grace\nHopper"\n2,Ada\n'))
await writeFile(join(folder, 'draft.tmp'), 'not for others')

const { steps } = await s3.sync({ direction: 'up', folder, prefix: 'people', exclude: ['*.tmp'] })
console.log(steps.map(({ action, path }) => `${action} ${path}`).join('\n'))

for await (const { id, name } of s3.csvRows('people/people.csv.gz')) console.log(id, JSON.stringify(name))

await s3.copy('people/people.csv.gz', 'archive/people.csv.gz', { metadata: { reviewed: 'yes' } })
console.log((await s3.head('archive/people.csv.gz')).metadata)

const { url } = await s3.presignGet('archive/people.csv.gz', { expiresInMs: 60_000 })
console.log(`anybody reads ${(await (await fetch(url)).arrayBuffer()).byteLength > 0 ? 'it' : 'nothing'}`)

for await (const entry of s3.list('', { delimiter: '/' })) if ('prefix' in entry) console.log(entry.prefix)
await s3.deleteMany(['people/people.csv.gz', 'archive/people.csv.gz'])
await rm(folder, { recursive: true })
