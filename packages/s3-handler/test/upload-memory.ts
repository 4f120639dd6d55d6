// Run by the suite in a process of its own: writes 300 MiB and prints by how much the process grew.
import { S3Handler, type S3HandlerOptions } from '../src/index.ts'

const MIB = 1024 * 1024

async function* body(): AsyncGenerator<Uint8Array> {
  for (let sent = 0; sent < 300; sent++) yield Buffer.alloc(MIB, sent)
}

await using s3 = new S3Handler(JSON.parse(process.env['UPLOAD_OPTIONS'] ?? '{}') as S3HandlerOptions)
await s3.put('memory/warm', 'x')
const before = process.memoryUsage.rss()
let peak = before
const timer = setInterval(() => (peak = Math.max(peak, process.memoryUsage.rss())), 10)
const { size } = await s3.put('memory/big', body())
clearInterval(timer)
await s3.delete('memory/big')
process.stdout.write(JSON.stringify({ size, grownBy: peak - before }))
