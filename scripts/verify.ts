import { spawn } from 'node:child_process'

// Everything that must hold before a change lands; the same on a desk and in CI. Each check counts as one, the tests by
// their own number. The last line is `N passed, N failed`.

interface Check {
  readonly name: string
  readonly command: readonly string[]
  /** The check's own last line holds its counts. */
  readonly counts?: boolean
}

/** What a check that failed is told of again at the end, where a long log is read first. */
const LINES_OF_A_FAILURE = 8

const pnpm = process.env['npm_execpath'] ?? 'pnpm'
const script = (name: string, ...args: string[]): readonly string[] => [pnpm, 'run', name, ...args]

const checks: readonly Check[] = [
  { name: 'format', command: script('format:check') },
  { name: 'types', command: script('types') },
  { name: 'lint', command: script('lint') },
  { name: 'unused code and dependencies', command: script('unused') },
  { name: 'options in the READMEs', command: script('options', '--check') },
  { name: 'versions of servers and tools', command: script('versions') },
  { name: 'packages as published', command: script('packages') },
  { name: 'tests', command: script('test'), counts: true },
  { name: 'demo', command: script('demo') },
  { name: 'demo --real', command: script('demo', '--real') },
]

interface Outcome {
  readonly ok: boolean
  readonly passed: number
  readonly failed: number
  readonly seconds: number
  /** Of a check that failed. */
  readonly why: readonly string[]
}

async function run(check: Check): Promise<Outcome> {
  process.stdout.write(`\n── ${check.name} ${'─'.repeat(Math.max(3, 100 - check.name.length))}\n`)
  const began = performance.now()
  const [command = pnpm, ...args] = check.command
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let tail = ''
  child.stdout.on('data', (chunk: Buffer) => {
    process.stdout.write(chunk)
    tail = (tail + chunk.toString('utf8')).slice(-10_000)
  })
  const code = await new Promise<number>((resolve) => {
    child.on('error', () => resolve(1))
    child.on('close', (status) => resolve(status ?? 1))
  })
  const seconds = (performance.now() - began) / 1000
  const lines = tail.split('\n').filter((line) => line.trim() !== '')
  if (check.counts !== true) {
    const why = code === 0 ? [] : lines.slice(-LINES_OF_A_FAILURE)
    return { ok: code === 0, passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1, seconds, why }
  }
  const counted = [...tail.matchAll(/^(\d+) passed, (\d+) failed$/gm)].at(-1)
  const [passed, failed] = [Number(counted?.[1] ?? 0), Number(counted?.[2] ?? 0)]
  // Tests that end badly without a failed test, or that ran none, have failed.
  const ok = code === 0 && failed === 0 && passed > 0
  const why = ok ? [] : lines.filter((line) => line.startsWith('failed: '))
  return { ok, passed, failed: ok ? 0 : Math.max(1, failed), seconds, why }
}

const only = process.argv.slice(2)
const chosen = only.length === 0 ? checks : checks.filter(({ name }) => only.includes(name))
let passed = 0
let failed = 0
const summary: string[] = []
const reasons: string[] = []
for (const check of chosen) {
  const result = await run(check)
  passed += result.passed
  failed += result.failed
  summary.push(`${result.ok ? 'ok    ' : 'FAILED'}  ${result.seconds.toFixed(0).padStart(5)} s  ${check.name}`)
  reasons.push(...result.why)
}
process.stdout.write(`\n${[...summary, ...reasons].join('\n')}\n${passed} passed, ${failed} failed\n`)
process.exitCode = failed === 0 && passed > 0 ? 0 : 1
