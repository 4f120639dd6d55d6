import { randomBytes } from 'node:crypto'
import { silentLogger } from '@common-handlers/core'
import type { ObjectStore } from '@common-handlers/storage'
import type { TrinoAddress } from '@common-handlers/testkit'
import { ident, TrinoHandler } from '@common-handlers/trino-handler'
import { type IngestorConfig, type IngestorConfigInput, ingestorConfigSchema } from '../src/config.ts'
import { ingest, type IngestOptions } from '../src/ingest.ts'
import type { LoadResult } from '../src/load.ts'
import { openSession, type Session } from '../src/session.ts'

export type Change = { readonly [K in keyof IngestorConfigInput]?: Partial<IngestorConfigInput[K]> | undefined }

/** A folder of the store and a schema of their own, for one test. */
export interface TrinoWorld extends AsyncDisposable {
  readonly input: IngestorConfigInput
  readonly config: IngestorConfig
  readonly session: Session
  readonly store: ObjectStore
  readonly trino: TrinoHandler
  /** `"lake"."t_1a2b"."audit_log"` */
  readonly table: string
  ingest(options?: Partial<IngestOptions>): Promise<LoadResult[]>
  rows(sql: string): Promise<unknown[][]>
  count(): Promise<number>
  /** Tables over files that are still there. */
  stages(): Promise<string[]>
}

export interface WorldOptions {
  readonly catalog?: string
  /** Where Trino is reached, when it is not its own address: a proxy. */
  readonly trinoUrl?: string
  readonly s3Endpoint?: string
  readonly change?: Change
}

export async function trinoWorld(trino: TrinoAddress, options: WorldOptions = {}): Promise<TrinoWorld> {
  const id = randomBytes(4).toString('hex')
  const { s3 } = trino
  const input: IngestorConfigInput = {
    dataset: 'audit_log',
    store: `s3://${s3.bucket}/ingestor-${id}`,
    engine: 'trino',
    trino: {
      url: options.trinoUrl ?? trino.url,
      user: trino.user,
      stagingCatalog: trino.stagingCatalog,
      stagingSchema: `ingest_${id}`,
    },
    s3: {
      endpoint: options.s3Endpoint ?? s3.endpoint,
      region: s3.region,
      accessKeyId: s3.accessKeyId,
      secretAccessKey: s3.secretAccessKey,
    },
    ...options.change,
    target: { catalog: options.catalog ?? trino.catalog, schema: `t_${id}`, table: 'audit_log', ...options.change?.target },
  } as IngestorConfigInput
  const config = ingestorConfigSchema.parse(input)
  const session = await openSession(config, silentLogger)
  // Beside any proxy: what is in the table is asked for directly.
  const direct = new TrinoHandler({ url: trino.url, user: trino.user })
  const { catalog = '', schema, table } = config.target
  const name = ident(catalog, schema, table).text
  const rows = async (sql: string): Promise<unknown[][]> =>
    (await direct.query(sql, [], { rowMode: 'arrays' })).rows as unknown[][]
  return {
    input,
    config,
    session,
    store: session.store.objects,
    trino: direct,
    table: name,
    rows,
    ingest: (given = {}) => ingest(session, { signal: new AbortController().signal, pauseMs: 100, ...given }),
    count: async () => Number((await rows(`SELECT count(*) FROM ${name}`))[0]?.[0]),
    stages: async () => {
      const found = await rows(
        `SELECT table_name FROM ${trino.stagingCatalog}.information_schema.tables WHERE table_schema = 'ingest_${id}'`,
      )
      return found.map(([stage]) => String(stage))
    },
    [Symbol.asyncDispose]: async () => {
      await direct.execute(`DROP TABLE IF EXISTS ${name}`)
      await direct.execute(`DROP SCHEMA IF EXISTS ${ident(catalog, schema).text}`)
      await direct.execute(`DROP SCHEMA IF EXISTS ${ident(trino.stagingCatalog, `ingest_${id}`).text}`)
      await direct.close()
      await session[Symbol.asyncDispose]()
    },
  }
}
