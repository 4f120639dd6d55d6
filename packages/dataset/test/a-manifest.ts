import { type Manifest, mapColumn } from '@common-handlers/dataset'

export const RUN_ID = '20261121T101530123Z-9f86d081'

/** A manifest of one file, with what a test wants to be different. */
export function aManifest(changes: Partial<Manifest> = {}): Manifest {
  return {
    version: 1,
    dataset: 'audit/log',
    runId: RUN_ID,
    createdAt: '2026-11-21T10:15:30.123Z',
    createdBy: 'audit-log-extractor 0.1.0',
    source: { system: 'postgresql', serverVersion: '18.4', database: 'app', table: '"app"."audit_log"' },
    mode: 'incremental',
    watermark: { column: 'id', from: '10', to: '20', lateRows: true, knownTransactions: ['755'] },
    snapshot: { id: '750:760:755', xmin: '750', xmax: '760', xip: ['755'], lsn: '0/1A2B3C' },
    columns: [
      mapColumn({ name: 'id', sourceType: 'bigint', baseTypeName: 'int8', category: 'N', nullable: false, keyPosition: 1 }),
      mapColumn({
        name: 'amount',
        sourceType: 'numeric(10,2)',
        baseTypeName: 'numeric',
        category: 'N',
        precision: 10,
        scale: 2,
        nullable: true,
      }),
      mapColumn({
        name: 'at',
        sourceType: 'timestamp with time zone',
        baseTypeName: 'timestamptz',
        category: 'D',
        nullable: false,
      }),
    ],
    format: { dialect: 'one-row-a-line', compression: 'gzip', null: '\\N', header: true },
    files: [{ name: 'part-00000.csv.gz', rows: 10, bytes: 300, sha256: 'a'.repeat(64), etag: '"x"' }],
    totals: { files: 1, rows: 10, bytes: 300 },
    ...changes,
  }
}
