import { formatBytes, formatCount, formatTable } from '@common-handlers/cli'
import type { Logger } from '@common-handlers/core'
import { type Compression, type Manifest, type ManifestColumn, mapColumn, readNewestManifest } from '@common-handlers/dataset'
import { PostgresHandler } from '@common-handlers/postgres-handler'
import type { ObjectStore } from '@common-handlers/storage'
import type { ExtractorConfig } from './config.ts'
import { copyStatement, lookAt } from './extract.ts'
import { copySelect, rowCondition } from './source-sql.ts'

/** What a run would do, as far as can be said without reading a row. */
export interface Plan {
  readonly dataset: string
  readonly store: string
  readonly source: { readonly table: string } | { readonly query: string }
  readonly mode: 'full' | 'incremental'
  readonly previousRunId: string | undefined
  readonly watermark: { readonly column: string; readonly above: string | undefined; readonly lateRows: boolean } | undefined
  readonly remark: string | undefined
  readonly key: readonly string[]
  readonly columns: readonly ManifestColumn[]
  readonly estimatedRows: number
  readonly estimatedBytes: number
  readonly estimatedFiles: number
  readonly sql: string
}

/** What is left of a typical row of CSV at level 1, where no earlier run says it. */
const TYPICAL_RATIO: Readonly<Record<Compression, number>> = { gzip: 0.25, zstd: 0.22, none: 1 }

/** Looks and reckons; reads no rows and writes nothing. */
export async function planRun(
  config: ExtractorConfig,
  store: ObjectStore,
  { logger, signal }: { readonly logger: Logger; readonly signal: AbortSignal },
): Promise<Plan> {
  const previous = await readNewestManifest(store, config.dataset, { signal })
  await using postgres = new PostgresHandler({ ...config.postgres, logger })
  return await postgres.readSnapshot(
    async (reader) => {
      const { source, window } = await lookAt(config, reader, previous)
      const select = copySelect(source, rowCondition(source, window.known, reader.snapshot))
      const { rows, width } = await estimate(reader, select)
      const bytes = Math.round(rows * bytesOfRow(config, previous, width))
      const text = new Set(config.source.text)
      return {
        dataset: config.dataset,
        store: store.url,
        source: source.origin,
        mode: config.source.mode,
        previousRunId: previous?.runId,
        watermark: source.watermark && { column: source.watermark.name, above: window.known?.from, lateRows: window.lateRows },
        remark: window.remark,
        key: source.columns.filter((column) => column.keyPosition !== undefined).length === 0 ? [] : source.key,
        columns: source.columns.map((column) => mapColumn(column, { text: text.has(column.name) })),
        estimatedRows: rows,
        estimatedBytes: bytes,
        estimatedFiles: Math.max(1, Math.ceil(bytes / config.output.fileBytes)),
        sql: copyStatement(select),
      }
    },
    { signal },
  )
}

async function estimate(
  reader: Pick<PostgresHandler, 'getRows'>,
  select: string,
): Promise<{ readonly rows: number; readonly width: number }> {
  const [row] = await reader.getRows(`EXPLAIN (FORMAT JSON) ${select}`)
  const [top] = JSON.parse(String(row?.[0])) as readonly {
    readonly Plan?: { readonly 'Plan Rows'?: number; readonly 'Plan Width'?: number }
  }[]
  return { rows: top?.Plan?.['Plan Rows'] ?? 0, width: top?.Plan?.['Plan Width'] ?? 0 }
}

/** As the run before had it; without one, as the planner reckons the width of a row. */
function bytesOfRow({ output }: ExtractorConfig, previous: Manifest | undefined, width: number): number {
  const same = previous !== undefined && previous.format.compression === output.compression && previous.totals.rows > 0
  return same ? previous.totals.bytes / previous.totals.rows : width * TYPICAL_RATIO[output.compression]
}

/** For a person. */
export function describePlan(plan: Plan): string {
  const { watermark } = plan
  const from = 'table' in plan.source ? plan.source.table : 'a query'
  const window =
    watermark === undefined
      ? undefined
      : `${watermark.column}${watermark.above === undefined ? ', from the first row' : ` above ${watermark.above}`}${watermark.lateRows ? ', and rows that were committed late' : ''}`
  const facts: [string, string | undefined][] = [
    ['read', `${from}, ${plan.mode === 'full' ? 'every row' : 'new rows'}`],
    ['window', window],
    ['remark', plan.remark],
    ['key', plan.key.length === 0 ? 'none: rows cannot be merged, only appended or replaced' : plan.key.join(', ')],
    ['write', `${plan.store}/${plan.dataset}/run=…/`],
    ['previous run', plan.previousRunId ?? 'none'],
    [
      'estimate',
      `${formatCount(plan.estimatedRows)} rows, about ${formatBytes(plan.estimatedBytes)} in ${plan.estimatedFiles} ${plan.estimatedFiles === 1 ? 'file' : 'files'}`,
    ],
  ]
  const columns = plan.columns.map((column) => [
    column.name,
    `${column.sourceType}${column.nullable ? '' : ' not null'}`,
    column.targets.iceberg.type,
    column.targets.duckdb.type,
    column.targets.iceberg.textBecause ?? column.targets.duckdb.textBecause ?? '',
  ])
  return [
    formatTable(facts.flatMap(([name, value]) => (value === undefined ? [] : [[name, value]]))),
    '',
    formatTable([['column', 'PostgreSQL', 'Iceberg', 'DuckDB', ''], ...columns]),
    '',
    plan.sql,
    '',
    'Nothing was read and nothing was written. Types are those of ordinary values: a column in which the run finds a value',
    'that a target cannot hold (infinity, NaN, a year beyond 9999) becomes text there, and the manifest says so.',
  ].join('\n')
}
