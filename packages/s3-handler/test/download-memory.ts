// Run by the suite in a process of its own: 16 transfers of one large object, and by how much the process grew.
import { S3Handler, type S3HandlerOptions } from '../src/index.ts'

const MIB = 1024 * 1024

await using s3 = new S3Handler(JSON.parse(process.env['DOWNLOAD_OPTIONS'] ?? '{}') as S3HandlerOptions)
const { size } = await s3.head('sparse')
const before = process.memoryUsage.rss()
let peak = before
const timer = setInterval(() => (peak = Math.max(peak, process.memoryUsage.rss())), 5)
let read = 0
await Promise.all(
  Array.from({ length: 16 }, async () => {
    let own = 0
    for await (const chunk of await s3.downloadStream('sparse', { memoryBytes: 4 * MIB })) {
      own += (chunk as Buffer).length
      if (own >= 64 * MIB) break
    }
    read += own
  }),
)
clearInterval(timer)
process.stdout.write(JSON.stringify({ size, read, grownBy: peak - before }))
