import { formatCount, formatTable } from '@common-handlers/cli'
import type { CheckResult } from '@common-handlers/core'
import type { LoadResult } from './load.ts'

/** What a person reads after `run`. */
export function loadReport(results: readonly LoadResult[], target: string): string {
  if (results.length === 0) return `nothing new for ${target}`
  const rows = results.map((result) => {
    const perSecond =
      result.state === 'committed' && result.loaded ? formatCount(result.rows / Math.max(0.001, result.seconds)) : ''
    const what = result.state === 'superseded' ? 'not needed' : result.loaded ? result.method : 'was loaded before'
    return [result.runId, what, formatCount(result.rows), result.seconds.toFixed(1), perSecond, result.snapshotId ?? '']
  })
  const total = results.reduce((sum, result) => sum + (result.loaded ? result.rows : 0), 0)
  return `${formatTable([['run', 'how', 'rows', 'seconds', 'rows/s', 'snapshot'], ...rows])}\n${formatCount(total)} rows into ${target}`
}

/** What a person reads after `check`. */
export function checkReport(results: readonly CheckResult[], advice: readonly string[]): string {
  const lines = results.flatMap(({ target, steps }) => [
    target,
    ...steps.map((step) => {
      const text = step.error === undefined ? (step.detail ?? '') : `${step.error.message} (${step.error.code})`
      return `  ${step.ok ? 'ok    ' : 'FAILED'}  ${String(Math.round(step.durationMs)).padStart(6)} ms  ${step.name}${text === '' ? '' : `: ${text}`}`
    }),
  ])
  return [...lines, ...advice.flatMap((text) => ['', text])].join('\n')
}
