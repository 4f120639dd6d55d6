import {
  addressIn,
  type ConfigArgument,
  type ConnectionOptions,
  type ConnectorContext,
  type ConnectorDefinition,
  getConnection,
  handlerLife,
  type IngestedItem,
  ingestedItem,
  type Leased,
  loginIn,
  testConnection,
} from '@common-handlers/connections'
import type { CheckResult } from '@common-handlers/core'
import type { NewprotocolClient, NewprotocolQuery } from './client.ts'
import { type NewprotocolConfig, type NewprotocolConfigInput, newprotocolConfigSchema } from './config.ts'
import { NEWPROTOCOL } from './errors.ts'

type NewprotocolDefinition = ConnectorDefinition<
  'newprotocol',
  NewprotocolConfigInput,
  NewprotocolConfig,
  NewprotocolClient,
  NewprotocolQuery
>

/** Tables of a server that speaks in lines. */
export const newprotocol: NewprotocolDefinition = {
  protocol: 'newprotocol',
  prefix: NEWPROTOCOL,
  packageName: '@common-handlers/newprotocol',
  configSchema: newprotocolConfigSchema,
  fromUrl: (url) => ({
    ...addressIn(url),
    ...loginIn(url),
  }),
  ...handlerLife(createClient),
  fetch: fetchRows,
}

/** A client of a server; the same configuration gives the same client, and `close()` gives it back. */
export function getNewprotocolClient(
  config?: ConfigArgument<typeof newprotocol>,
  options?: ConnectionOptions,
): Promise<Leased<NewprotocolClient>> {
  return getConnection(newprotocol, config, options)
}

/** Tries a connection step by step. */
export function testNewprotocolConnection(
  config?: ConfigArgument<typeof newprotocol>,
  options?: Parameters<typeof testConnection>[2],
): Promise<CheckResult> {
  return testConnection(newprotocol, config, options)
}

/** The driver is loaded with the first client. */
async function createClient(config: NewprotocolConfig): Promise<NewprotocolClient> {
  const { NewprotocolClient } = await import('./client.ts')
  return new NewprotocolClient(config)
}

async function* fetchRows(
  client: NewprotocolClient,
  query: NewprotocolQuery,
  { signal }: ConnectorContext,
): AsyncGenerator<IngestedItem, void, undefined> {
  let position = 0
  for await (const { id, data } of client.rows(query, { signal })) {
    yield ingestedItem({
      source: `${client.target}/${query.table}`,
      key: String(id),
      data,
      watermark: String(id),
      lineage: { protocol: 'newprotocol', query: `READ ${query.table} ${query.watermark ?? '0'}`, position: position++ },
    })
  }
}
