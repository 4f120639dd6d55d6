import { createDatabase, type PostgresAddress } from '@common-handlers/testkit'
import { afterAll, beforeAll } from 'vitest'
import { PostgresHandler, type PostgresHandlerOptions } from '../src/index.ts'

/** A database of this file's own, and a handler on it, for the tests of one suite. */
export interface OwnDatabase {
  readonly pg: PostgresHandler
  readonly address: PostgresAddress
  /** Options of another handler on the same database. */
  options(more?: PostgresHandlerOptions): PostgresHandlerOptions
  /** How many backends of this database run a statement, the asking one left out. */
  activeBackends(): Promise<number>
  /** Ends every other backend of this database. */
  terminateOthers(): Promise<void>
}

export function ownDatabase(server: PostgresAddress): OwnDatabase {
  let database: Awaited<ReturnType<typeof createDatabase>> | undefined
  let pg: PostgresHandler | undefined
  const address = (): PostgresAddress => {
    if (database === undefined) throw new Error('asked for before beforeAll')
    return database
  }
  const options = (more: PostgresHandlerOptions = {}): PostgresHandlerOptions => {
    const { host, port, user, password, database: name } = address()
    return { host, port, user, password, database: name, ...more }
  }
  const handler = (): PostgresHandler => (pg ??= new PostgresHandler(options()))
  beforeAll(async () => {
    database = await createDatabase(server, 'pgh')
  })
  afterAll(async () => {
    await pg?.close()
    await database?.drop()
  })
  return {
    get pg() {
      return handler()
    },
    get address() {
      return address()
    },
    options,
    activeBackends: async () => {
      const [row] = await handler().getRecords<{ active: number }>(
        `SELECT count(*)::int AS active FROM pg_stat_activity
          WHERE datname = current_database() AND state <> 'idle' AND backend_type = 'client backend' AND pid <> pg_backend_pid()`,
      )
      return row?.active ?? Number.NaN
    },
    terminateOthers: async () => {
      await handler().execute(
        `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`,
      )
    },
  }
}

/** What a call rejects with. */
export async function failure(call: Promise<unknown>): Promise<Error & Record<string, unknown>> {
  try {
    await call
  } catch (error) {
    return error as Error & Record<string, unknown>
  }
  throw new Error('it was expected to fail')
}

/** So many connections of a handler in use at one time. */
export async function allAtOnce(pg: PostgresHandler, connections: number): Promise<void> {
  const all = Promise.withResolvers<void>()
  let inUse = 0
  const use = (): Promise<void> => {
    if (++inUse === connections) all.resolve()
    return all.promise
  }
  await Promise.all(Array.from({ length: connections }, () => pg.transaction(use)))
}

/** The whole of a COPY, with every block checked for its own consistency. */
export async function readAll(
  blocks: AsyncIterable<{ bytes: Buffer; rowEnds: Uint32Array; rows: number }>,
): Promise<{ bytes: Buffer; rows: Buffer[] }> {
  const bytes: Buffer[] = []
  const rows: Buffer[] = []
  for await (const block of blocks) {
    bytes.push(block.bytes)
    if (block.rowEnds.length !== block.rows || block.rowEnds.at(-1) !== block.bytes.length)
      throw new Error('a block contradicts itself')
    let start = 0
    for (const end of block.rowEnds) {
      rows.push(block.bytes.subarray(start, end))
      start = end
    }
  }
  return { bytes: Buffer.concat(bytes), rows }
}
