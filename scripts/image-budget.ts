import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { findEngine } from '../packages/testkit/src/containers/engine.ts'
import { freePorts } from '../packages/testkit/src/index.ts'
import {
  appDigest,
  buildImage,
  buildImages,
  engineOutput,
  images,
  imageTag,
  locked,
} from '../packages/testkit/test/image-build.ts'
import { startImage } from '../packages/testkit/test/image-run.ts'

// What each image weighs and how fast it starts, written into docker/README.md between the two comments below; ends with 1
// where a budget is missed. `--again` also builds each image once more, without any cache, and compares its layer.
//   node --conditions=@common-handlers/source scripts/image-budget.ts [--again]

const BEGIN = '<!-- budget: written by scripts/image-budget.ts -->'
const END = '<!-- end of budget -->'
const MB = 1_000_000
const budget = { appBytes: 40 * MB, helpMs: 300 }

const engine = await findEngine()
const inside = (app: string, ...command: [string, ...string[]]): Promise<string> => {
  const [entrypoint, ...args] = command
  return engineOutput(engine, 'run', '--rm', ...locked, '--no-healthcheck', '--entrypoint', entrypoint, imageTag(app), ...args)
}

/** Median of five starts, of the program alone: without what the engine needs for a container. */
const measureHelp = `
  const times = Array.from({ length: 5 }, () => {
    const began = performance.now()
    const { status } = require('node:child_process').spawnSync('node', ['dist/main.js', '--help'])
    if (status !== 0) throw new Error('--help ended with ' + status)
    return performance.now() - began
  })
  console.log(times.toSorted((a, b) => a - b)[2])`

const nobody = '127.0.0.1:1'
const s3 = {
  STORE: 's3://nobody/there',
  S3_ENDPOINT: `http://${nobody}`,
  S3_REGION: 'us-east-1',
  S3_ACCESS_KEY_ID: 'id',
  S3_SECRET_ACCESS_KEY: 'key',
}
const idle: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  extractor: {
    SOURCE_TABLE: 't',
    POSTGRES_HOST: '127.0.0.1',
    POSTGRES_PORT: '1',
    POSTGRES_DATABASE: 'd',
    POSTGRES_USER: 'u',
    POSTGRES_PASSWORD: 'p',
  },
  ingestor: {
    ENGINE: 'trino',
    TARGET_CATALOG: 'c',
    TARGET_SCHEMA: 's',
    TARGET_TABLE: 't',
    TRINO_URL: `http://${nobody}`,
    TRINO_USER: 'u',
    TRINO_STAGING_CATALOG: 'c',
  },
}

/** Resident memory of a program that waits for its next run, all drivers loaded: after one that found nobody. */
async function idleBytes(app: string): Promise<number> {
  const [port = 0] = await freePorts(1)
  const prefix = app.toUpperCase()
  const settings = { DATASET: 'd', ...s3, ...idle[app], EVERY: '1h', LISTEN: `127.0.0.1:${port}` }
  const env = Object.fromEntries(Object.entries(settings).map(([key, value]) => [`${prefix}_${key}`, value]))
  await using container = await startImage(engine, app, ['run'], { env, with: ['--no-healthcheck'] })
  const end = Date.now() + 120_000
  for (;;) {
    const { stdout } = await container.exec('node', 'dist/main.js', 'health')
    if (stdout.includes('"outcome"')) break
    if (Date.now() > end) throw new Error(`${app} has not ended its first run: ${stdout}`)
  }
  const { stdout } = await container.exec('cat', '/proc/1/status')
  return Number(/VmRSS:\s+(\d+) kB/.exec(stdout)?.[1]) * 1024
}

async function sizeOf(image: string): Promise<number> {
  return Number(await engineOutput(engine, 'image', 'inspect', '--format', '{{.Size}}', image))
}

const megabytes = (bytes: number): string => `${(bytes / MB).toFixed(1)} MB`
const rows: string[] = []
await buildImages(engine)
const base =
  /NODE_IMAGE=(\S+)/.exec(await readFile(join(import.meta.dirname, '../docker/extractor.Dockerfile'), 'utf8'))?.[1] ?? ''
for (const { app, program } of images) {
  const packages = (await inside(app, 'ls', 'node_modules/.pnpm')).split('\n').filter((name) => /.@/.test(name))
  const appBytes = Number((await inside(app, 'du', '-s', '--apparent-size', '-B1', '/app')).split('\t')[0])
  const packed = Number(await inside(app, 'sh', '-c', 'tar -C / -cf - app | gzip | wc -c'))
  const over = (await sizeOf(imageTag(app))) - (await sizeOf(base))
  const helpMs = Number(await inside(app, 'node', '-e', measureHelp))
  const rss = await idleBytes(app)
  const sizes = [appBytes, packed, over].map(megabytes)
  rows.push(`| ${[program, packages.length, ...sizes, `${Math.round(helpMs)} ms`, megabytes(rss)].join(' | ')} |`)
  if (appBytes > budget.appBytes || helpMs > budget.helpMs) {
    process.stderr.write(`${program} misses its budget of ${megabytes(budget.appBytes)} and ${budget.helpMs} ms\n`)
    process.exitCode = 1
  }
}
const head = ['| image | packages | app layer | compressed | over the base | `--help` | idle |', '|---|---|---|---|---|---|---|']
const table = [...head, ...rows].join('\n')
process.stdout.write(`${table}\n`)

const readme = join(import.meta.dirname, '../docker/README.md')
const text = await readFile(readme, 'utf8')
const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)]
if (begin < 0 || end < begin) throw new Error(`docker/README.md has no place for the table: ${BEGIN} … ${END}`)
await writeFile(readme, `${text.slice(0, begin)}${BEGIN}\n\n${table}\n\n${text.slice(end)}`)

if (process.argv.includes('--again')) {
  for (const { app, program } of images) {
    const tag = imageTag(app, '-again')
    await buildImage(engine, app, { tag, options: ['--no-cache'] })
    const [first, second] = [await appDigest(engine, imageTag(app)), await appDigest(engine, tag)]
    await engineOutput(engine, 'image', 'rm', tag)
    process.stdout.write(`${program}: ${first === second ? `again ${first}` : `${first}, then ${second}`}\n`)
    if (first !== second) process.exitCode = 1
  }
}
