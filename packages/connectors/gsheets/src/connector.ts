import {
  type ConfigArgument,
  type ConnectionOptions,
  type ConnectorContext,
  type ConnectorDefinition,
  getConnection,
  handlerLife,
  type IngestedItem,
  ingestedItem,
  type Leased,
  testConnection,
} from '@common-handlers/connections'
import type { CheckResult } from '@common-handlers/core'
import type { GsheetsClient, GsheetsQuery } from './client.ts'
import { type GsheetsConfig, type GsheetsConfigInput, gsheetsConfigSchema } from './config.ts'
import { GSHEETS } from './errors.ts'

/** Spreadsheets of Google Sheets. A range alone is a query. */
export const gsheets: ConnectorDefinition<'gsheets', GsheetsConfigInput, GsheetsConfig, GsheetsClient, string | GsheetsQuery> = {
  protocol: 'gsheets',
  prefix: GSHEETS,
  packageName: '@common-handlers/gsheets',
  configSchema: gsheetsConfigSchema,
  fromUrl: (url) => ({
    spreadsheetId: url.host === 'docs.google.com' ? (url.pathname.split('/')[3] ?? '') : url.pathname,
    // What a browser shows beside it is no key of ours.
    usp: undefined,
    gid: undefined,
  }),
  ...handlerLife(createClient),
  fetch: fetchRows,
}

/** A client of a spreadsheet; the same configuration gives the same client, and `close()` gives it back. */
export function getGsheetsClient(
  config?: ConfigArgument<typeof gsheets>,
  options?: ConnectionOptions,
): Promise<Leased<GsheetsClient>> {
  return getConnection(gsheets, config, options)
}

/** Tries a connection step by step. */
export function testGsheetsConnection(
  config?: ConfigArgument<typeof gsheets>,
  options?: Parameters<typeof testConnection>[2],
): Promise<CheckResult> {
  return testConnection(gsheets, config, options)
}

/** The driver is loaded with the first client. */
async function createClient(config: GsheetsConfig): Promise<GsheetsClient> {
  const { GsheetsClient } = await import('./client.ts')
  return new GsheetsClient(config)
}

async function* fetchRows(
  client: GsheetsClient,
  given: string | GsheetsQuery,
  { signal }: ConnectorContext,
): AsyncGenerator<IngestedItem, void, undefined> {
  const query: GsheetsQuery = typeof given === 'string' ? { range: given } : given
  let position = 0
  for await (const { row, cells } of client.rows(query, { signal })) {
    yield ingestedItem({
      source: `${client.target}/${query.range}`,
      key: String(row),
      data: cells,
      watermark: String(row),
      lineage: { protocol: 'gsheets', query: query.range, position: position++ },
    })
  }
}
