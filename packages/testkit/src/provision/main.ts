import { parseArgs } from 'node:util'
import { artifactFolder, cached, provide } from './cache.ts'
import { javaForTrino } from './artifacts.ts'
import { artifacts, programs } from './servers.ts'
import { readEnvironment } from '../config.ts'

const known = [...Object.keys(artifacts), ...Object.keys(programs)]

const usage = `Fetches the servers that tests and demonstrations run against into a cache folder.

  node packages/testkit/src/provision/main.ts [${known.join('] [')}]

Without names: all of them. The folder is COMMON_HANDLERS_CACHE, else ~/.cache/common-handlers.
Not in it but installed with apt-get, unless the machine has them: ${Object.keys(programs).join(', ')}.
`

async function main(): Promise<number> {
  const { positionals, values } = parseArgs({ allowPositionals: true, options: { help: { type: 'boolean', short: 'h' } } })
  if (values.help === true) {
    process.stdout.write(usage)
    return 0
  }
  const unknown = positionals.filter((name) => !known.includes(name))
  if (unknown.length > 0) {
    process.stderr.write(`unknown: ${unknown.join(', ')}; known: ${known.join(', ')}\n`)
    return 2
  }
  const wanted = positionals.length === 0 ? known : known.filter((name) => positionals.includes(name))
  process.stdout.write(`cache: ${readEnvironment().cacheDirectory}\n`)
  const tasks = wanted.map((name) => fetchOne(name))
  // Trino needs a Java beside its own files; on a machine that has one this finds it at once.
  if (wanted.includes('trino')) tasks.push(report('java', async () => (await javaForTrino()).home))
  const outcomes = await Promise.all(tasks)
  return outcomes.every(Boolean) ? 0 : 1
}

async function fetchOne(name: string): Promise<boolean> {
  const [artifact, program] = [artifacts[name], programs[name]]
  if (artifact === undefined) return program !== undefined && (await report(name, program))
  if ((await cached(artifact)) !== undefined) {
    process.stdout.write(`${name} ${artifact.version}: in the cache, ${artifactFolder(artifact)}\n`)
    return true
  }
  process.stdout.write(`${name} ${artifact.version}: fetching\n`)
  return await report(`${name} ${artifact.version}`, () => provide(artifact))
}

async function report(title: string, work: () => Promise<string>): Promise<boolean> {
  const started = performance.now()
  const seconds = (): string => `${((performance.now() - started) / 1000).toFixed(1)} s`
  try {
    const place = await work()
    process.stdout.write(`${title}: ready in ${seconds()}, ${place}\n`)
    return true
  } catch (error) {
    process.stderr.write(`${title}: failed after ${seconds()}: ${error instanceof Error ? error.message : String(error)}\n`)
    return false
  }
}

process.exitCode = await main()
