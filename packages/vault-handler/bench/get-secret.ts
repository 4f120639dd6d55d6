/* oxlint-disable no-console -- printing is what it is for */
// getSecret against plain node-vault on one server, interleaved in one run: secrets a second one after another and 16 at once,
// the client's CPU time for each, and what importing the two costs.
//   VAULT_ADDR=http://127.0.0.1:8200 VAULT_TOKEN=… node --conditions=@common-handlers/source bench/get-secret.ts [reads] [rounds]
// Without VAULT_ADDR it starts an OpenBao of its own.
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { startOpenBao } from '@common-handlers/testkit'
import nodeVault from 'node-vault'
import { VaultHandler } from '../src/index.ts'

const run = promisify(execFile)
const reads = Number(process.argv[2] ?? 1_000)
const rounds = Number(process.argv[3] ?? 7)

interface Measured {
  readonly perSecond: number
  /** CPU of this process, in microseconds. */
  readonly cpu: number
}

const median = (numbers: readonly number[]): number =>
  numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? Number.NaN

async function measure(read: () => Promise<unknown>, atOnce: number): Promise<Measured> {
  const [start, cpu] = [performance.now(), process.cpuUsage()]
  let left = reads
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      while (left-- > 0) await read()
    }),
  )
  const { user, system } = process.cpuUsage(cpu)
  return { perSecond: (reads * 1000) / (performance.now() - start), cpu: (user + system) / reads }
}

async function importTime(code: string): Promise<number> {
  // `t` is taken in the new process, so that the start of Node is not in it.
  const script = `const t = performance.now(); ${code}; process.stdout.write(String(performance.now() - t))`
  const { stdout } = await run(process.execPath, ['--input-type=module', '-e', script], { cwd: import.meta.dirname })
  return Number(stdout)
}

const given = process.env['VAULT_ADDR']
await using own = given === undefined ? await startOpenBao() : undefined
const address = own?.address ?? given ?? ''
const token = own?.rootToken ?? process.env['VAULT_TOKEN'] ?? ''

await using vault = new VaultHandler({ address, token })
await using caching = new VaultHandler({ address, token, cache: { ttlMs: 3_600_000 } })
await vault.kv.put('secret/bench', { user: 'app', password: 'correct horse battery staple', port: 5432 })
const plain = nodeVault({ endpoint: address, token })
const contestants: Readonly<Record<string, () => Promise<unknown>>> = {
  'node-vault': () => plain.read('secret/data/bench'),
  getSecret: () => vault.getSecret('secret/bench'),
  'getSecret, cached': () => caching.getSecret('secret/bench'),
}

for (const atOnce of [1, 16]) {
  const results = new Map(Object.keys(contestants).map((name) => [name, [] as Measured[]]))
  for (const read of Object.values(contestants)) await measure(read, atOnce)
  for (let round = 0; round < rounds; round++) {
    for (const [name, read] of Object.entries(contestants)) results.get(name)?.push(await measure(read, atOnce))
  }
  const base = median((results.get('node-vault') ?? []).map(({ perSecond }) => perSecond))
  console.log(`${atOnce} at once, median of ${rounds} rounds of ${reads}`)
  for (const [name, all] of results) {
    const perSecond = median(all.map((one) => one.perSecond))
    const cpu = median(all.map((one) => one.cpu))
    console.log(
      `  ${name.padEnd(18)} ${perSecond.toFixed(0).padStart(8)}/s  ${(perSecond / base).toFixed(2).padStart(6)} x  ${cpu.toFixed(0).padStart(5)} µs CPU`,
    )
  }
}

console.log(`import, median of ${rounds}`)
const imports = {
  'node-vault': "await import('node-vault')",
  'vault-handler': "await import('@common-handlers/vault-handler')",
  'vault-handler and its driver': "await import('@common-handlers/vault-handler'); await import('node-vault')",
}
for (const [name, code] of Object.entries(imports)) {
  const times: number[] = []
  for (let round = 0; round < rounds; round++) times.push(await importTime(code))
  console.log(`  ${name.padEnd(30)} ${median(times).toFixed(0).padStart(4)} ms`)
}
