// Writes a run of two rows, with awkward values, and reads it back: node examples/write-a-run.ts
import { createHash } from 'node:crypto'
import { gzipSync } from 'node:zlib'
import {
  decompress,
  duckdbDecode,
  encodeRow,
  fileName,
  findBrokenRow,
  listRuns,
  type ManifestFormat,
  mapColumn,
  newRunId,
  readManifest,
  readRows,
  runPrefix,
  trinoDecode,
  writeManifest,
} from '@common-handlers/dataset'
import { MemoryStore } from '@common-handlers/storage'

const store = new MemoryStore()
const columns = [
  mapColumn({ name: 'id', sourceType: 'bigint', baseTypeName: 'int8', category: 'N', nullable: false, keyPosition: 1 }),
  mapColumn({ name: 'note', sourceType: 'text', baseTypeName: 'text', category: 'S', nullable: true }),
  mapColumn({ name: 'took', sourceType: 'interval', baseTypeName: 'interval', category: 'T', nullable: true }),
]
const format: ManifestFormat = { dialect: 'one-row-a-line', compression: 'gzip', null: '\\N', header: true }
const rows = [
  ['9007199254740993', 'two\nlines, "quoted"', '1 mon -2 days'],
  ['9007199254740994', null, null],
]

const runId = newRunId()
const name = fileName(0, format)
const bytes = gzipSync([columns.map((column) => column.name), ...rows].map(encodeRow).join(''))
const { etag } = await store.put(runPrefix('demo', runId) + name, bytes)
console.log(
  'before the manifest:',
  (await listRuns(store, 'demo')).map((run) => run.committed),
)
await writeManifest(store, {
  version: 1,
  dataset: 'demo',
  runId,
  createdAt: new Date().toISOString(),
  createdBy: 'write-a-run',
  source: { system: 'postgresql', serverVersion: '18', database: 'app', table: '"public"."demo"' },
  mode: 'full',
  snapshot: { id: '1:1:', xmin: '1', xmax: '1', xip: [] },
  columns,
  format,
  files: [{ name, rows: rows.length, bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex'), etag }],
  totals: { files: 1, rows: rows.length, bytes: bytes.length },
})
console.log(
  'after it:',
  (await listRuns(store, 'demo')).map((run) => run.committed),
)

const manifest = await readManifest(store, 'demo', runId)
for (const file of manifest.files) {
  const open = async () => decompress(await store.get(runPrefix('demo', runId) + file.name), manifest.format.compression)
  console.log('broken row:', await findBrokenRow(await open(), manifest.columns, manifest.format))
  for await (const row of readRows(await open(), manifest.format)) console.log(row.line, row.values)
}
for (const column of manifest.columns) {
  const { iceberg } = column.targets
  console.log(`${column.name}: ${iceberg.type}${iceberg.textBecause === undefined ? '' : ` (${iceberg.textBecause})`}`)
}
const [id] = manifest.columns
if (id !== undefined) console.log(`${trinoDecode(id)} in Trino, ${duckdbDecode(id)} in DuckDB`)
