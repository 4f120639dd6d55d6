import { ConfigError } from '@common-handlers/core'
import type { Manifest, ManifestColumn, ManifestSnapshot, ManifestWatermark, SourceColumn } from '@common-handlers/dataset'
import type { SourceConfig } from './config.ts'
import {
  type Known,
  MAX_KNOWN_TRANSACTIONS,
  type ProbeResult,
  remembersTransactions,
  type Source,
  watermarkFamily,
} from './source-sql.ts'

/** How late rows are dealt with, in words for a log or a plan. */
export interface Window {
  /** Undefined: every row is read. */
  readonly known?: Known | undefined
  /** True when rows at or below the old watermark are looked for. */
  readonly lateRows: boolean
  /** Why not, or what comes of it. */
  readonly remark?: string | undefined
}

const startOver = 'start over with a full run: --set source.mode=full'

function differs(what: string, previous: Manifest): ConfigError {
  return new ConfigError(`run ${previous.runId} cannot be continued: ${what}; ${startOver}`, {
    code: 'EXTRACTOR_PREVIOUS_RUN_DIFFERS',
    context: { dataset: previous.dataset, previousRunId: previous.runId },
  })
}

/** Checks that the watermark column is one whose values can be compared, and finds its type. */
export function watermarkColumn(
  name: string,
  columns: readonly Pick<SourceColumn, 'name' | 'sourceType'>[],
): NonNullable<Source['watermark']> {
  const column = columns.find((candidate) => candidate.name === name)
  if (column === undefined) {
    throw new ConfigError(
      `source.watermark: the source has no column "${name}"; it has: ${columns.map((one) => one.name).join(', ')}`,
      {
        code: 'EXTRACTOR_COLUMN_MISSING',
        context: { column: name },
      },
    )
  }
  if (watermarkFamily(column.sourceType) === undefined) {
    throw new ConfigError(
      `source.watermark: column "${name}" is of type ${column.sourceType}; a number, a date or a timestamp is needed`,
      {
        code: 'EXTRACTOR_WATERMARK_TYPE',
        context: { column: name, type: column.sourceType },
      },
    )
  }
  return { name, type: column.sourceType }
}

/**
 * Which rows an incremental run reads: those above the watermark of the run before, and those that were written but not
 * yet committed when it read.
 * @throws ConfigError `EXTRACTOR_PREVIOUS_RUN_DIFFERS`
 */
export function planWindow(
  config: Pick<SourceConfig, 'mode' | 'lookback'>,
  source: Source,
  previous: Manifest | undefined,
  snapshot: Pick<ManifestSnapshot, 'xmax'>,
): Window {
  if (config.mode === 'full') return { lateRows: false }
  assertContinues(source, previous)
  const lateRows = source.hasTransactionIds && config.lookback !== 'none'
  const why = source.hasTransactionIds
    ? 'source.lookback is none: rows that were committed late are not looked for'
    : 'the source is no table, so that rows which were committed late cannot be looked for'
  const remark = lateRows ? undefined : why
  const from = previous?.watermark?.to
  // The run before, if any, found no row at all.
  if (previous === undefined || from === undefined) return { lateRows, remark }
  if (!lateRows) return { known: { from }, lateRows, remark }
  if (BigInt(previous.snapshot.xmax) > BigInt(snapshot.xmax)) {
    throw differs(
      `its transaction ids are ahead of the server's (${previous.snapshot.xmax} > ${snapshot.xmax}), so it read another server`,
      previous,
    )
  }
  const listed = previous.watermark?.knownTransactions
  const late = { xmin: previous.snapshot.xmin, known: listed ?? [] }
  const again =
    listed === undefined
      ? `which transactions run ${previous.runId} has read is not known: rows written while it ran may come again`
      : undefined
  return { known: { from, lookback: config.lookback, late }, lateRows, remark: again }
}

function assertContinues(source: Source, previous: Manifest | undefined): void {
  if (previous === undefined) return
  const watermark = source.watermark?.name ?? ''
  if (previous.watermark === undefined) throw differs('it noted no watermark', previous)
  if (previous.watermark.column !== watermark) {
    throw differs(`its watermark column is "${previous.watermark.column}", now it is "${watermark}"`, previous)
  }
  const now = new Map(source.columns.map((column) => [column.name, column]))
  for (const column of previous.columns) {
    const found = now.get(column.name)
    if (found === undefined) throw differs(`its column "${column.name}" is gone`, previous)
    if (found.sourceType !== column.sourceType) {
      throw differs(`its column "${column.name}" was of type ${column.sourceType}, now it is ${found.sourceType}`, previous)
    }
  }
  const key = (columns: readonly Pick<ManifestColumn, 'name' | 'keyPosition'>[]): string =>
    columns
      .filter((column) => column.keyPosition !== undefined)
      .toSorted((a, b) => (a.keyPosition ?? 0) - (b.keyPosition ?? 0))
      .map((column) => column.name)
      .join(', ')
  if (key(previous.columns) !== key(source.columns)) {
    throw differs(`its key was (${key(previous.columns)}), now it is (${key(source.columns)})`, previous)
  }
}

/** What the manifest says of the window; undefined without a watermark column. */
export function watermarkOf(
  source: Source,
  { known, lateRows }: Window,
  probe: Pick<ProbeResult, 'high' | 'transactions'>,
  snapshot: Pick<ManifestSnapshot, 'xmin'>,
): ManifestWatermark | undefined {
  if (source.watermark === undefined) return undefined
  const carried = known?.late?.known.filter((id) => BigInt(id) >= BigInt(snapshot.xmin)) ?? []
  const transactions = [...new Set([...carried, ...probe.transactions])]
  // The list is whole when every row was read, or every row that the list of the run before does not cover.
  const whole = remembersTransactions(source) && (known === undefined || known.late !== undefined)
  return {
    column: source.watermark.name,
    ...(known === undefined ? {} : { from: known.from }),
    ...(probe.high === undefined ? {} : { to: probe.high }),
    lateRows,
    ...(whole && transactions.length <= MAX_KNOWN_TRANSACTIONS ? { knownTransactions: transactions } : {}),
  }
}
