// One job of transfer.ts with this package, as it is installed: built, configured as it comes.
import { createReadStream, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { S3Handler } from '@common-handlers/s3-handler'

const { BENCH_ENDPOINT, BENCH_BUCKET, BENCH_FOLDER, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY } = process.env
const s3 = new S3Handler({
  endpoint: BENCH_ENDPOINT,
  bucket: BENCH_BUCKET,
  accessKeyId: AWS_ACCESS_KEY_ID,
  secretAccessKey: AWS_SECRET_ACCESS_KEY,
})

async function each(items, work) {
  const left = items.values()
  await Promise.all(
    Array.from({ length: 16 }, async () => {
      for (const item of left) await work(item)
    }),
  )
}

const jobs = {
  upload: () => s3.put('ours/big', { path: join(BENCH_FOLDER, 'big') }),
  'upload of a stream': () => s3.put('ours/big', createReadStream(join(BENCH_FOLDER, 'big'))),
  download: () => s3.download('ours/big', join(BENCH_FOLDER, 'big.ours')),
  'put small': async () => {
    const folder = join(BENCH_FOLDER, 'small')
    await each(readdirSync(folder), async (name) => s3.put(`ours/small/${name}`, readFileSync(join(folder, name))))
  },
  'get small': async () => {
    const folder = join(BENCH_FOLDER, 'small.ours')
    mkdirSync(folder)
    const keys = []
    for await (const { key } of s3.list('ours/small/')) keys.push(key)
    await each(keys, async (key) => {
      const { bytes } = await s3.getBytes(key)
      writeFileSync(join(folder, key.slice('ours/small/'.length)), bytes)
    })
  },
  list: async () => {
    let text = ''
    for await (const { key, size } of s3.list('keys/')) text += `${size} ${key}\n`
    process.stdout.write(text)
  },
}

await jobs[process.argv[2]]()
await s3.close()
