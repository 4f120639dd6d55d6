import { HandlerError } from '@common-handlers/core'
import { describe, expect, it } from 'vitest'
import { toDuckDbError } from '../src/errors.ts'

/** Messages as DuckDB 1.5.6 writes them, and what becomes of them. */
const table: [message: string, code: string, outcome: string, retry: string][] = [
  [
    'IO Error: Could not set lock on file "/d/x.duckdb": Conflicting lock is held in /usr/bin/node (PID 4711). See also https://duckdb.org/docs',
    'DUCKDB_LOCKED',
    'conflict',
    'safe',
  ],
  [
    "Connection Error: Can't open a connection to same database file with a different configuration than existing connections",
    'DUCKDB_OPEN_OTHERWISE',
    'conflict',
    'never',
  ],
  [
    'Out of Memory Error: failed to allocate data of size 4.0 MiB (6.0 MiB/9.5 MiB used)\n\nPossible solutions:\n* x',
    'DUCKDB_OUT_OF_MEMORY',
    'capacity',
    'never',
  ],
  [
    'Out of Memory Error: failed to offload data block of size 256.0 KiB (768.0 KiB/976.5 KiB used).',
    'DUCKDB_TEMP_FULL',
    'capacity',
    'never',
  ],
  ['IO Error: Could not write file "/d/x.duckdb": No space left on device', 'DUCKDB_DISK_FULL', 'capacity', 'never'],
  [
    'IO Error: The file "/d/x.duckdb" exists, but it is not a valid DuckDB database file!',
    'DUCKDB_FILE_UNUSABLE',
    'data',
    'never',
  ],
  ['Serialization Error: Failed to deserialize: field id mismatch', 'DUCKDB_FILE_UNUSABLE', 'data', 'never'],
  ['IO Error: Cannot open file "/no/x.duckdb": No such file or directory', 'DUCKDB_FILE_NOT_FOUND', 'not-found', 'never'],
  [
    'IO Error: Cannot open database "/d/x" in read-only mode: database does not exist',
    'DUCKDB_FILE_NOT_FOUND',
    'not-found',
    'never',
  ],
  ['IO Error: No files found that match the pattern "/d/*.csv"', 'DUCKDB_FILE_NOT_FOUND', 'not-found', 'never'],
  ['IO Error: Cannot open file "/root/x.duckdb": Permission denied', 'DUCKDB_FORBIDDEN', 'permission', 'never'],
  ['IO Error: Could not fsync file "/d/x": Input/output error', 'DUCKDB_IO', 'remote', 'if-idempotent'],
  [
    'Invalid Input Error: Cannot execute statement of type "CREATE" on database "x" which is attached in read-only mode!',
    'DUCKDB_READ_ONLY',
    'permission',
    'never',
  ],
  [
    'Catalog Error: Table with name nosuch does not exist!\nDid you mean "t"?\n\nLINE 1: select * from nosuch',
    'DUCKDB_NOT_FOUND',
    'not-found',
    'never',
  ],
  ['Catalog Error: Table with name "t" already exists!', 'DUCKDB_EXISTS', 'conflict', 'never'],
  [
    'Binder Error: Referenced column "nocol" not found in FROM clause!\nCandidate bindings: "a"',
    'DUCKDB_NOT_FOUND',
    'not-found',
    'never',
  ],
  ['Binder Error: column "x" must appear in the GROUP BY clause', 'DUCKDB_STATEMENT_INVALID', 'remote', 'never'],
  ['Parser Error: syntax error at or near "selec"', 'DUCKDB_STATEMENT_INVALID', 'remote', 'never'],
  ['Constraint Error: Duplicate key "a: 1" violates primary key constraint.', 'DUCKDB_CONSTRAINT', 'conflict', 'never'],
  ['TransactionContext Error: Conflict on update!', 'DUCKDB_TRANSACTION_CONFLICT', 'conflict', 'safe'],
  ["Conversion Error: Could not convert string 'x2' to INT32", 'DUCKDB_VALUE_INVALID', 'data', 'never'],
  ['Invalid Input Error: Invalid input for hex digit: ?', 'DUCKDB_VALUE_INVALID', 'data', 'never'],
  [
    'Invalid Input Error: CSV Error on Line: 3\nOriginal Line: 2,a\nExpected Number of Columns: 3 Found: 2\nPossible fixes:\n* x\n\n  file = /d/b.csv\n',
    'DUCKDB_CSV_BROKEN',
    'data',
    'never',
  ],
  ['IO Error: Input is not a GZIP stream: /d/x.csv.gz', 'DUCKDB_CSV_BROKEN', 'data', 'never'],
  ['Invalid Input Error: The following options were not recognized: nope', 'DUCKDB_CONFIG_INVALID', 'config', 'never'],
  ['Failed to set config', 'DUCKDB_CONFIG_INVALID', 'config', 'never'],
  ['INTERRUPT Error: Interrupted!', 'DUCKDB_INTERRUPTED', 'connection', 'if-idempotent'],
  ['INTERNAL Error: Attempted to access index 3 within vector of size 3', 'DUCKDB_FAILED', 'remote', 'never'],
]

describe('errors of DuckDB', () => {
  for (const [message, code, outcome, retry] of table) {
    it(`${message.split('\n')[0]?.slice(0, 90)} → ${code}`, () => {
      const error = toDuckDbError(new Error(message), { path: '/d/x.duckdb', action: 'a query' })
      expect(error).toMatchObject({ code, outcome, retry, context: { path: '/d/x.duckdb', action: 'a query' } })
    })
  }

  it('names the process that holds the lock, the place in a CSV, and no statement', () => {
    const place = { path: 'x', action: 'a query' }
    expect(toDuckDbError(new Error(table[0]?.[0]), place)).toMatchObject({ context: { pid: 4711 } })
    const csv = toDuckDbError(new Error(table.find(([, code]) => code === 'DUCKDB_CSV_BROKEN')?.[0]), place)
    expect(csv).toMatchObject({
      where: { file: '/d/b.csv', line: 3 },
      message: '/d/b.csv: CSV Error on Line: 3; Expected Number of Columns: 3 Found: 2',
    })
    const missing = toDuckDbError(new Error(table.find(([message]) => message.includes('LINE 1'))?.[0]), place)
    expect((missing as Error).message).toBe('Table with name nosuch does not exist!; Did you mean "t"?')
  })

  it('gives back what is ours already, and what is no error of the driver', () => {
    const ours = toDuckDbError(new Error('Parser Error: x'), { path: 'x', action: 'y' })
    expect(HandlerError.is(ours)).toBe(true)
    expect(toDuckDbError(ours, { path: 'z', action: 'z' })).toBe(ours)
    expect(toDuckDbError('text', { path: 'z', action: 'z' })).toBe('text')
  })
})
