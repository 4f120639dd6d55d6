import type { Logger } from '@common-handlers/core'
import { formatBytes, formatCount, formatDuration } from './format.ts'

/** How far long work has come. Totals may be estimates. */
export interface ProgressState {
  readonly rows?: number | undefined
  readonly totalRows?: number | undefined
  readonly bytes?: number | undefined
  readonly totalBytes?: number | undefined
  /** What is being done now: `part-00003`, `RUNNING 12/20 splits`. */
  readonly detail?: string | undefined
}

/** Shown as one line that is redrawn on a terminal, as a log line every ten seconds elsewhere. */
export interface Progress {
  update(state: ProgressState): void
  /** Takes the line away; what was done is told by what is printed next. */
  end(): void
}

const REDRAW_MS = 100
const LOG_MS = 10_000
const BAR_WIDTH = 24

export function createProgress(options: {
  readonly label: string
  readonly terminal: boolean
  readonly logger: Logger
  readonly write: (text: string) => void
  readonly columns?: (() => number) | undefined
  readonly now?: (() => number) | undefined
}): Progress {
  const now = options.now ?? (() => performance.now())
  const began = now()
  let last = options.terminal ? Number.NEGATIVE_INFINITY : began
  let drawn = false
  return {
    update(state) {
      const time = now()
      if (time - last < (options.terminal ? REDRAW_MS : LOG_MS)) return
      last = time
      const seconds = Math.max(0.001, (time - began) / 1000)
      if (!options.terminal) {
        const { detail, ...counts } = state
        options.logger.info(
          { ...counts, ...(detail === undefined ? {} : { detail }), seconds: Math.round(seconds) },
          options.label,
        )
        return
      }
      // Some terminals say that they have no columns.
      const width = (options.columns?.() || 80) - 1
      options.write(`\r\u001B[2K${progressLine(options.label, state, seconds).slice(0, width)}`)
      drawn = true
    },
    end() {
      if (drawn) options.write('\r\u001B[2K')
      drawn = false
    },
  }
}

/** `extract  [########------------]  34 %  680,000 of 2,000,000 rows  84.2 MB/s  ETA 0:12` */
export function progressLine(label: string, state: ProgressState, seconds: number): string {
  const parts = [label]
  const share = shareDone(state)
  if (share !== undefined) {
    const filled = Math.round(share * BAR_WIDTH)
    parts.push(
      `[${'#'.repeat(filled)}${'-'.repeat(BAR_WIDTH - filled)}]`,
      `${Math.floor(share * 100)
        .toString()
        .padStart(3)} %`,
    )
  }
  if (state.rows !== undefined) {
    const total = state.totalRows === undefined ? '' : ` of ${formatCount(Math.max(state.totalRows, state.rows))}`
    parts.push(`${formatCount(state.rows)}${total} rows`)
  }
  if (state.bytes !== undefined) parts.push(`${formatBytes(state.bytes / seconds)}/s`)
  else if (state.rows !== undefined) parts.push(`${formatCount(Math.round(state.rows / seconds))} rows/s`)
  if (share !== undefined && share > 0.01 && share < 1) parts.push(`ETA ${formatDuration(((1 - share) / share) * seconds)}`)
  if (state.detail !== undefined) parts.push(state.detail)
  return parts.join('  ')
}

function shareDone({ rows, totalRows, bytes, totalBytes }: ProgressState): number | undefined {
  if (rows !== undefined && totalRows !== undefined && totalRows > 0) return Math.min(1, rows / totalRows)
  if (bytes !== undefined && totalBytes !== undefined && totalBytes > 0) return Math.min(1, bytes / totalBytes)
  return undefined
}
