import { writeSync } from 'node:fs'
import type { Reporter, SerializedError, TestModule, Vitest } from 'vitest/node'

interface Counts {
  readonly passed: number
  readonly failed: number
}

/** What a line begins with that names a failure; {@link SummaryReporter} writes them last, but for the counts. */
const FAILURE = 'failed: '
/** So many are named; more of them have one cause, as a rule. */
const FAILURES_NAMED = 20
const FAILURE_LENGTH = 300

/**
 * Says at the end which suites did not run for want of a server, one line a failure and, as the very last line,
 * `N passed, N failed`.
 * Failed counts tests, and everything else that makes a run red: files and suites that broke, unhandled errors, a setup
 * that failed. Name it last among the reporters.
 */
export class SummaryReporter implements Reporter {
  #counts: Counts | undefined
  #failures: readonly string[] = []
  #watching = false

  onInit(vitest: Vitest): void {
    this.#watching = vitest.config.watch
    // Other reporters, and vitest itself when a setup fails, write after the hooks: only at the exit is this line the last.
    if (!this.#watching)
      process.once('exit', (code) => writeSync(1, [...this.#failures, lastLine(this.#counts, code), ''].join('\n')))
  }

  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly SerializedError[]): void {
    const missing = modules.flatMap(suitesNotRun)
    if (missing.length > 0) {
      writeSync(1, `\nNot run for want of a server:\n${missing.map((line) => `  ${line}\n`).join('')}`)
    }
    this.#counts = count(modules, unhandledErrors.length)
    this.#failures = [
      ...unhandledErrors.map((error) => failure('outside of any test', [error])),
      ...modules.flatMap(failuresOf),
    ].slice(0, FAILURES_NAMED)
    if (this.#watching) writeSync(1, `${lastLine(this.#counts, 0)}\n`)
  }
}

/** What the run came to. A red exit code without a failure that was seen is a failure too. */
export function lastLine(counts: Counts | undefined, exitCode: number): string {
  const { passed, failed } = counts ?? { passed: 0, failed: 0 }
  return `${passed} passed, ${failed === 0 && exitCode !== 0 ? 1 : failed} failed`
}

function count(modules: readonly TestModule[], unhandledErrors: number): Counts {
  let passed = 0
  let failed = unhandledErrors
  for (const module of modules) {
    const before = failed
    for (const test of module.children.allTests()) {
      const { state } = test.result()
      if (state === 'passed') passed++
      // One that is still pending when everything is over was cut off.
      else if (state !== 'skipped') failed++
    }
    // A hook that failed leaves its tests skipped, and a file that did not load has none.
    for (const suite of module.children.allSuites()) failed += suite.errors().length
    failed += module.errors().length
    if (failed === before && (!module.ok() || module.state() !== 'passed') && module.state() !== 'skipped') failed++
  }
  return { passed, failed }
}

function failuresOf(module: TestModule): string[] {
  const file = module.relativeModuleId
  const broken = module.errors().length > 0 ? [failure(file, module.errors())] : []
  const suites = [...module.children.allSuites()].filter((suite) => suite.errors().length > 0)
  const tests = [...module.children.allTests()].filter((test) => ['failed', 'pending'].includes(test.result().state))
  return [
    ...broken,
    ...suites.map((suite) => failure(`${file} > ${suite.fullName}`, suite.errors())),
    ...tests.map((test) => failure(`${file} > ${test.fullName}`, test.result().errors ?? [])),
  ]
}

function failure(where: string, errors: readonly { readonly message: string }[]): string {
  const why = errors[0]?.message.replaceAll(/\s+/g, ' ') ?? 'cut off'
  return `${FAILURE}${where}: ${why}`.slice(0, FAILURE_LENGTH)
}

function suitesNotRun(module: TestModule): string[] {
  const lines: string[] = []
  for (const test of module.children.allTests()) {
    const { missingServer } = test.meta()
    if (missingServer === undefined) continue
    const suite = test.parent.type === 'suite' ? test.parent.fullName : ''
    lines.push(`${module.relativeModuleId} > ${suite}: ${missingServer}`)
  }
  return lines
}
