/* oxlint-disable no-console -- a benchmark reports on the console */
// Reads the 1.5 million rows of tpch.sf1.orders by this handler, direct and spooled, by trino-client and by Trino's
// Python client, each in a process of its own, in turn: `pnpm run bench packages/trino-handler/bench/read-orders.bench.ts [rounds]`.
// The handler is measured as built, which that sees to. CPU is the client's own.
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { runWithTrinoPython, startTrino } from '@common-handlers/testkit'

const run = promisify(execFile)
const SQL = 'SELECT * FROM tpch.sf1.orders'

interface Measured {
  readonly rows: number
  readonly seconds: number
  readonly cpuSeconds: number
  readonly rssMegabytes: number
}

const python = (encoding: string): string => `
import json, os, resource, time
import trino
t = time.time(); c = time.process_time()
connection = trino.dbapi.connect(host=os.environ['HOST'], port=int(os.environ['PORT']), user='test', encoding=${encoding})
cursor = connection.cursor(); cursor.execute('${SQL}')
rows = 0
while True:
    some = cursor.fetchmany(10000)
    if not some: break
    rows += len(some)
print(json.dumps({'rows': rows, 'seconds': time.time() - t, 'cpuSeconds': time.process_time() - c,
    'rssMegabytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))`

const rounds = Number(process.argv[2] ?? 3)
await using server = await startTrino({ heapMegabytes: 2048, c2: true })
const { hostname, port } = new URL(server.url)
const child = async (reader: string): Promise<Measured> => {
  const script = join(import.meta.dirname, 'orders-reader.ts')
  return JSON.parse((await run(process.execPath, [script, reader, server.url])).stdout) as Measured
}
const byPython = async (encoding: string): Promise<Measured> =>
  JSON.parse(await runWithTrinoPython(python(encoding), { HOST: hostname, PORT: port })) as Measured
const readers: Readonly<Record<string, () => Promise<Measured>>> = {
  'trino-client': () => child('trino-client'),
  'handler, direct': () => child('direct'),
  'handler, direct, objects': () => child('direct-objects'),
  'handler, spooled json': () => child('json'),
  'handler, spooled json+zstd': () => child('json+zstd'),
  'Python client, direct': () => byPython('None'),
  'Python client, spooled json+zstd': () => byPython("'json+zstd'"),
}
// Once unmeasured: the server has compiled what it runs, and reads from memory.
await child('direct')
await child('json+zstd')
const all = new Map<string, Measured[]>()
for (let round = 0; round < rounds; round++) {
  for (const [name, read] of Object.entries(readers)) all.set(name, [...(all.get(name) ?? []), await read()])
}
const middle = (values: number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN
const rate = (runs: Measured[]): number => middle(runs.map(({ rows, seconds }) => rows / seconds))
const base = rate(all.get('trino-client') ?? [])
for (const [name, runs] of all) {
  const rows = rate(runs)
  console.log(
    `${name.padEnd(45)} ${(rows / 1000).toFixed(0).padStart(4)} k rows/s  ${(rows / base).toFixed(2)} x  ` +
      `${middle(runs.map((one) => one.cpuSeconds)).toFixed(1)} CPU s  ${middle(runs.map((one) => one.rssMegabytes)).toFixed(0)} MB`,
  )
}
