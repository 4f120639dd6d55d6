import { type CheckAttempt, type CheckResult, HandlerError, NotFoundError, RemoteError, runCheck } from '@common-handlers/core'
import {
  ident,
  tableColumns,
  type TableName,
  tableIdent,
  type TrinoHandler,
  trinoErrorFacts,
} from '@common-handlers/trino-handler'
import type { EngineCheck } from './engine.ts'

/** The catalog that lays tables over files, in the words of its configuration file. */
const STAGING_CATALOG = (name: string): string =>
  [
    `Trino reads the runs in place through a catalog of the Hive connector. Where it is missing, an administrator adds etc/catalog/${name}.properties:`,
    '  connector.name=hive',
    '  hive.metastore=file',
    '  hive.metastore.catalog.dir=s3://<bucket>/_hms   (or the metastore that is there: hive.metastore=thrift, glue)',
    '  hive.non-managed-table-writes-enabled=true',
    '  fs.native-s3.enabled=true, and the s3.* lines of the Iceberg catalog',
    'Any Hive catalog that sees the bucket will do: name it in trino.stagingCatalog. Without one, engine: duckdb loads the same runs into a file.',
  ].join('\n')

const RIGHTS =
  'Grant the user of trino.user: create schema (or make the schemas yourself), create and drop table in the staging schema; ' +
  'create table, insert, and for write: merge or replace also update and delete, on the target.'

export interface TrinoCheckSubject {
  readonly trino: TrinoHandler
  readonly table: TableName
  readonly staging: Pick<TableName, 'catalog' | 'schema'>
  /** A folder of the store, as Trino spells it. */
  readonly location: string
}

/** Tries everything that a load needs, but for the load. Makes and drops one external table. */
export async function checkTrino(subject: TrinoCheckSubject, signal: AbortSignal): Promise<EngineCheck> {
  const { trino, table, staging, location } = subject
  const server = await trino.check({ catalogs: [], signal })
  if (!server.ok) return { results: [server], advice: ['Look at trino.url, trino.user and the way to log in.'] }
  const target = await runCheck(
    `target ${table.catalog}.${table.schema}.${table.table}`,
    targetSteps(trino, table, signal),
    signal,
  )
  const staged = await trino.check({ catalogs: [staging.catalog], staging: { ...staging, location }, signal })
  const stage: CheckResult = {
    ...staged,
    target: `staging ${staging.catalog}.${staging.schema}`,
    steps: staged.steps.slice(SERVER_STEPS),
  }
  const advice = [...(stage.ok ? [] : [STAGING_CATALOG(staging.catalog)]), ...(target.ok && stage.ok ? [] : [RIGHTS])]
  return { results: [server, target, stage], advice }
}

/** The steps of the handler's check that were shown for the server already: reaching it, and running a statement. */
const SERVER_STEPS = 2

function targetSteps(trino: TrinoHandler, table: TableName, signal: AbortSignal): CheckAttempt[] {
  const { catalog, schema } = table
  const find: CheckAttempt = {
    name: `find Iceberg catalog ${catalog}`,
    run: async () => {
      const question = 'SELECT connector_name FROM system.metadata.catalogs WHERE catalog_name = ?'
      const { rows } = await trino.query<{ connector_name: string }>(question, [catalog.toLowerCase()], { signal })
      const connector = rows[0]?.connector_name
      if (connector === undefined) {
        throw new NotFoundError(`catalog ${catalog} is not there, or may not be seen`, { code: 'INGESTOR_CATALOG_NOT_FOUND' })
      }
      if (connector !== 'iceberg') {
        throw new RemoteError(
          `catalog ${catalog} is of the connector ${connector}: exactly-once needs the snapshots of Iceberg`,
          {
            code: 'INGESTOR_CATALOG_NOT_ICEBERG',
            serverCode: connector,
          },
        )
      }
      return 'connector iceberg'
    },
  }
  const rights: CheckAttempt = {
    name: `may write ${schema}.${table.table}`,
    run: async () => {
      const columns = await tableColumns(trino, table, { signal })
      const schemas = await trino.query(
        `SELECT 1 AS found FROM ${ident(catalog, 'information_schema', 'schemata')} WHERE schema_name = ?`,
        [schema.toLowerCase()],
        { signal },
      )
      if (schemas.rows.length === 0) return 'the schema is not there yet; the first run makes it'
      const name = tableIdent(table)
      // Validating a statement asks for its rights, and runs nothing.
      const statement =
        columns === undefined ? `CREATE TABLE ${name} AS SELECT 1 AS checked` : `INSERT INTO ${name} SELECT * FROM ${name}`
      await trino.query(`EXPLAIN (TYPE VALIDATE) ${statement}`, [], { signal })
      return columns === undefined ? 'the table is not there yet; the first run makes it' : `${columns.length} columns`
    },
  }
  return [find, rights]
}

/** Tells what to do about a staging catalog that cannot be used. */
export function stagingFailed(error: unknown, catalog: string): unknown {
  const facts = trinoErrorFacts(error)
  if (!HandlerError.is(error) || facts === undefined) return error
  const message = `the table over the files could not be made in the staging catalog ${catalog}: ${error.message}. iceberg-ingestor check says what is missing`
  const context = { ...error.context }
  if (facts.errorName === 'CATALOG_NOT_FOUND' || facts.errorName === 'SCHEMA_NOT_FOUND') {
    return new NotFoundError(message, { code: 'INGESTOR_STAGING_NOT_FOUND', context, cause: error })
  }
  if (facts.errorName === 'NOT_SUPPORTED' || /non-managed/i.test(error.message)) {
    return new RemoteError(message, { code: 'INGESTOR_STAGING_REFUSED', serverCode: facts.errorName, context, cause: error })
  }
  return error
}
