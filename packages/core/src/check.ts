import { HandlerError } from './errors.ts'

/** One thing that `check()` tried. */
export interface CheckStep {
  /** What was tried: `log in`, `read secret/data/app`. */
  readonly name: string
  readonly ok: boolean
  readonly durationMs: number
  /** What was found: a version, a number of files. */
  readonly detail?: string
  readonly error?: { readonly code: string; readonly message: string }
}

/** The answer of a handler's `check()`: what was tried, in order, up to the first thing that failed. */
export interface CheckResult {
  /** Which server was asked, without secrets. */
  readonly target: string
  readonly ok: boolean
  readonly durationMs: number
  readonly steps: readonly CheckStep[]
}

export interface CheckAttempt {
  readonly name: string
  /** Does it; what it returns is shown as the detail. */
  readonly run: () => Promise<string | undefined>
}

/** Tries each step in turn and stops at the first that fails. It reports and does not throw; an abort still throws. */
export async function runCheck(target: string, attempts: readonly CheckAttempt[], signal?: AbortSignal): Promise<CheckResult> {
  const steps: CheckStep[] = []
  const began = performance.now()
  for (const { name, run } of attempts) {
    const start = performance.now()
    try {
      const detail = await run()
      steps.push({ name, ok: true, durationMs: performance.now() - start, ...(detail === undefined ? {} : { detail }) })
    } catch (error) {
      signal?.throwIfAborted()
      const code = HandlerError.is(error) ? error.code : 'UNEXPECTED'
      const message = error instanceof Error ? error.message : String(error)
      steps.push({ name, ok: false, durationMs: performance.now() - start, error: { code, message } })
      break
    }
  }
  return { target, ok: steps.every((step) => step.ok), durationMs: performance.now() - began, steps }
}
