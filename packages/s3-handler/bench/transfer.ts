// CPU seconds, wall time and peak memory of one large upload and download, with and without a signed payload.
//   S3_ENDPOINT=… S3_ACCESS_KEY_ID=… S3_SECRET_ACCESS_KEY=… S3_BUCKET=… node --conditions=@common-handlers/source bench/transfer.ts [MiB]
// Each variant runs in a process of its own: memory does not shrink again.
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { S3Handler, type S3ConfigInput } from '../src/index.ts'

const MIB = 1024 * 1024
const size = Number(process.argv[2] ?? 1024)
const variant = process.argv[3]

const options: S3ConfigInput = {
  endpoint: process.env['S3_ENDPOINT'],
  accessKeyId: process.env['S3_ACCESS_KEY_ID'],
  secretAccessKey: process.env['S3_SECRET_ACCESS_KEY'],
  bucket: process.env['S3_BUCKET'] ?? 'lake',
  prefix: 'bench',
}

async function* body(): AsyncGenerator<Uint8Array> {
  const chunk = Buffer.alloc(MIB, 'a row of an audit log\n')
  for (let sent = 0; sent < size; sent++) yield chunk
}

const variants: Readonly<Record<string, () => Promise<void>>> = {
  'upload, payload signed': () => upload({ signPayload: 'always' }),
  'upload, payload not signed': () => upload({ signPayload: 'never' }),
  'upload, not signed, CRC32': () => upload({ signPayload: 'never', checksums: 'when-supported' }),
  download: async () => {
    await using s3 = new S3Handler(options)
    let bytes = 0
    for await (const chunk of await s3.get('big')) bytes += (chunk as Buffer).length
    if (bytes !== size * MIB) throw new Error(`${bytes} bytes came`)
  },
}

async function upload(more: Partial<S3ConfigInput>): Promise<void> {
  await using s3 = new S3Handler({ ...options, ...more })
  await s3.put('big', body())
}

async function measure(work: () => Promise<void>): Promise<void> {
  const began = performance.now()
  const before = process.cpuUsage()
  await work()
  const { user, system } = process.cpuUsage(before)
  const seconds = (performance.now() - began) / 1000
  const peak = process.resourceUsage().maxRSS / 1024
  process.stdout.write(
    `${variant?.padEnd(28)} ${((user + system) / 1e6).toFixed(2).padStart(6)} CPU s ${seconds.toFixed(2).padStart(7)} s ${(size / seconds).toFixed(0).padStart(5)} MiB/s ${peak.toFixed(0).padStart(5)} MiB peak\n`,
  )
}

if (variant === undefined) {
  process.stdout.write(`${size} MiB at ${options.endpoint ?? 'AWS'}, Node ${process.version}\n`)
  const script = fileURLToPath(import.meta.url)
  for (const name of Object.keys(variants)) {
    execFileSync(process.execPath, [...process.execArgv, script, String(size), name], { stdio: 'inherit' })
  }
  await using s3 = new S3Handler(options)
  await s3.delete('big')
} else {
  await measure(variants[variant] ?? (() => Promise.reject(new Error(`no variant "${variant}"`))))
}
