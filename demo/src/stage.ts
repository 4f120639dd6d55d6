import type { DayCounts } from './flights.ts'

/** What `audit-log-extractor run` prints, as far as the demo shows it. */
export interface ExtractResult {
  readonly runId: string | null
  readonly rows: number
  /** Absent when nothing was new. */
  readonly bytes?: number
}

/** What `iceberg-ingestor run` prints, as far as the demo shows it. */
export interface IngestResult {
  readonly runs: readonly { readonly runId: string; readonly rows: number; readonly loaded: boolean }[]
}

/** Where the main job runs: on embedded parts, or on the servers of production. */
export interface Stage extends AsyncDisposable {
  /** `PostgreSQL 18 from npm → a folder → DuckDB` */
  readonly description: string
  readonly postgres: {
    readonly host: string
    readonly port: number
    readonly user: string
    readonly password: string
    readonly database: string
  }
  /** The password of the role that the extractor reads as; the extractor gets it from the stage's secrets. */
  readonly extractorPassword: string
  readonly extractorConfig: string
  readonly ingestorConfig: string
  /** Where the files lie, for a person. */
  readonly files: string
  /** Counts in the warehouse, by day. */
  countByDay(): Promise<DayCounts>
  /** Answers a query of the reader. */
  query(sql: string): Promise<readonly Readonly<Record<string, unknown>>[]>
  /** A query that the reader can paste, and the command it belongs to. */
  readonly pasteable: string
}
