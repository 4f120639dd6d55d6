import { describe } from 'vitest'
import { addressVariable } from '../config.ts'

/**
 * A suite against a database that no package brings, so that testkit cannot start it: it is there where its address is, a
 * URL such as `mssql://user:password@host:1433/database`.
 */
export function describeGiven(
  variable: 'TEST_MONGODB_URL' | 'TEST_MSSQL_URL' | 'TEST_ORACLE_URL',
  title: string,
  body: (url: URL) => void,
): void {
  const url = addressVariable(variable)
  if (url === undefined) return
  // oxlint-disable-next-line vitest/valid-title -- it is the caller's
  describe(title, () => {
    body(new URL(url))
  })
}
