import { createHash } from 'node:crypto'
import { gzipSync } from 'node:zlib'
import {
  encodeRow,
  type Manifest,
  type ManifestColumn,
  mapColumn,
  newRunId,
  runPrefix,
  type SourceColumn,
  writeManifest,
} from '@common-handlers/dataset'
import type { ObjectStore } from '@common-handlers/storage'

let clock = Date.UTC(2026, 10, 21, 10, 0, 0)

/** Run ids in the order in which they are made, whatever the clock does. */
export function nextRunId(): string {
  clock += 1000
  return newRunId(new Date(clock))
}

const source = (
  name: string,
  sourceType: string,
  baseTypeName: string,
  category: string,
  keyPosition?: number,
): SourceColumn => ({
  name,
  sourceType,
  baseTypeName,
  category,
  nullable: keyPosition === undefined,
  ...(keyPosition === undefined ? {} : { keyPosition }),
})

/** id bigint (key), occurred_at timestamptz, actor text, payload jsonb. */
export const auditColumns: ManifestColumn[] = [
  source('id', 'bigint', 'int8', 'N', 1),
  source('occurred_at', 'timestamp with time zone', 'timestamptz', 'D'),
  source('actor', 'text', 'text', 'S'),
  source('payload', 'jsonb', 'jsonb', 'U'),
].map((column) => mapColumn(column))

export const withoutKey: ManifestColumn[] = auditColumns.map(({ keyPosition: _, ...column }) => column)

export type Row = readonly (string | null)[]

export function auditRow(id: number, actor: string | null = `actor ${id}`): Row {
  return [
    String(id),
    `2026-11-${String(1 + (id % 28)).padStart(2, '0')} 10:15:30.${String(id % 1_000_000).padStart(6, '0')}+00`,
    actor,
    `{"id": ${id}}`,
  ]
}

export const auditRows = (from: number, count: number): Row[] =>
  Array.from({ length: count }, (_, index) => auditRow(from + index))

export interface RunOptions {
  readonly dataset?: string
  readonly mode?: Manifest['mode']
  readonly previousRunId?: string | undefined
  readonly columns?: readonly ManifestColumn[]
  /** One entry is one file. */
  readonly files?: readonly (readonly Row[])[]
  /** The text of the files as it is, instead of rows; with how many rows the manifest says it has. */
  readonly raw?: readonly { readonly text: string; readonly rows: number }[]
  readonly dialect?: Manifest['format']['dialect']
  readonly manifest?: Partial<Manifest>
}

/** Writes the files of a run and its manifest, as the extractor does. */
export async function writeRun(store: ObjectStore, options: RunOptions = {}): Promise<Manifest> {
  const {
    dataset = 'audit_log',
    mode = 'incremental',
    columns = auditColumns,
    files = [auditRows(1, 3)],
    dialect = 'one-row-a-line',
  } = options
  const runId = options.manifest?.runId ?? nextRunId()
  const header = `${columns.map((column) => column.name).join(',')}\n`
  const texts = options.raw ?? files.map((rows) => ({ text: header + rows.map(encodeRow).join(''), rows: rows.length }))
  const entries: Manifest['files'][number][] = []
  for (const [index, { text, rows }] of texts.entries()) {
    const bytes = gzipSync(text)
    const name = `part-${String(index).padStart(5, '0')}.csv.gz`
    const { etag } = await store.put(runPrefix(dataset, runId) + name, bytes)
    entries.push({ name, rows, bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex'), etag })
  }
  const sum = (of: 'rows' | 'bytes'): number => entries.reduce((total, file) => total + file[of], 0)
  const manifest: Manifest = {
    version: 1,
    dataset,
    runId,
    ...(options.previousRunId === undefined ? {} : { previousRunId: options.previousRunId }),
    createdAt: new Date().toISOString(),
    createdBy: 'test',
    source: { system: 'postgresql', serverVersion: '15.0', database: 'app', table: '"app"."audit_log"' },
    mode,
    snapshot: { id: '1:1:', xmin: '1', xmax: '1', xip: [] },
    columns: [...columns],
    format: { dialect, compression: 'gzip', null: '\\N', header: true },
    files: entries,
    totals: { files: entries.length, rows: sum('rows'), bytes: sum('bytes') },
    ...options.manifest,
  }
  await writeManifest(store, manifest)
  return manifest
}
