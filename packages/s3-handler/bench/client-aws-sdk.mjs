// One job of transfer.ts with the SDK and its lib-storage, configured as they come.
import { createReadStream, createWriteStream, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { GetObjectCommand, paginateListObjectsV2, PutObjectCommand, S3Client } from '@aws-sdk/client-s3'
import { Upload } from '@aws-sdk/lib-storage'

const { BENCH_ENDPOINT, BENCH_BUCKET: Bucket, BENCH_FOLDER } = process.env
const client = new S3Client({ endpoint: BENCH_ENDPOINT, forcePathStyle: true })

async function each(items, work) {
  const left = items.values()
  await Promise.all(
    Array.from({ length: 16 }, async () => {
      for (const item of left) await work(item)
    }),
  )
}

async function keysBelow(Prefix) {
  const keys = []
  for await (const { Contents } of paginateListObjectsV2({ client }, { Bucket, Prefix })) {
    for (const { Key, Size } of Contents ?? []) keys.push({ Key, Size })
  }
  return keys
}

const jobs = {
  upload: () =>
    new Upload({ client, params: { Bucket, Key: 'sdk/big', Body: createReadStream(join(BENCH_FOLDER, 'big')) } }).done(),
  download: async () => {
    const { Body } = await client.send(new GetObjectCommand({ Bucket, Key: 'sdk/big' }))
    await pipeline(Body, createWriteStream(join(BENCH_FOLDER, 'big.sdk')))
  },
  'put small': async () => {
    const folder = join(BENCH_FOLDER, 'small')
    await each(readdirSync(folder), async (name) =>
      client.send(new PutObjectCommand({ Bucket, Key: `sdk/small/${name}`, Body: readFileSync(join(folder, name)) })),
    )
  },
  'get small': async () => {
    const folder = join(BENCH_FOLDER, 'small.sdk')
    mkdirSync(folder)
    await each(await keysBelow('sdk/small/'), async ({ Key }) => {
      const { Body } = await client.send(new GetObjectCommand({ Bucket, Key }))
      writeFileSync(join(folder, Key.slice('sdk/small/'.length)), await Body.transformToByteArray())
    })
  },
  list: async () => process.stdout.write((await keysBelow('keys/')).map(({ Key, Size }) => `${Size} ${Key}\n`).join('')),
}

await jobs[process.argv[2]]()
client.destroy()
