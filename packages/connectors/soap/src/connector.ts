import {
  type ConfigArgument,
  type ConnectionOptions,
  type ConnectorContext,
  type ConnectorDefinition,
  exactJson,
  getConnection,
  handlerLife,
  type IngestedItem,
  ingestedItem,
  type Leased,
  testConnection,
} from '@common-handlers/connections'
import type { CheckResult } from '@common-handlers/core'
import type { SoapClient, SoapRecord, SoapValue } from './client.ts'
import { type SoapConfig, type SoapConfigInput, soapConfigSchema } from './config.ts'
import { placeOf, recordsUnusable, SOAP } from './errors.ts'

/** What the connector fetches; an operation alone is called without arguments, and its whole answer is one item. */
export type SoapQuery = string | SoapRecordsQuery

export interface SoapRecordsQuery {
  readonly operation: string
  /** Elements by their names. What a watermark means to a service is said here: `{ since: watermark }`. */
  readonly args?: Readonly<Record<string, unknown>> | undefined
  /** Where the list stands in the answer: `return`. Each of its records is an item. Default: the whole answer is one item. */
  readonly items?: string | undefined
  /** Where a record's key stands: `id`. */
  readonly key?: string | undefined
  /** Where a record's watermark stands: `changedAt`. */
  readonly watermark?: string | undefined
}

/** SOAP services, from their WSDL. */
export const soap: ConnectorDefinition<'soap', SoapConfigInput, SoapConfig, SoapClient, SoapQuery> = {
  protocol: 'soap',
  prefix: SOAP,
  packageName: '@common-handlers/soap',
  configSchema: soapConfigSchema,
  ...handlerLife(createClient),
  fetch: fetchItems,
}

/** A client of a service; the same configuration gives the same client, and `close()` gives it back. */
export function getSoapClient(config?: ConfigArgument<typeof soap>, options?: ConnectionOptions): Promise<Leased<SoapClient>> {
  return getConnection(soap, config, options)
}

/** Tries a connection step by step; no operation is called. */
export function testSoapConnection(
  config?: ConfigArgument<typeof soap>,
  options?: Parameters<typeof testConnection>[2],
): Promise<CheckResult> {
  return testConnection(soap, config, options)
}

/** The driver is loaded with the first client. */
async function createClient(config: SoapConfig): Promise<SoapClient> {
  const { SoapClient } = await import('./client.ts')
  return new SoapClient(config)
}

async function* fetchItems(
  client: SoapClient,
  query: SoapQuery,
  { signal }: ConnectorContext,
): AsyncGenerator<IngestedItem, void, undefined> {
  const { operation, args, items, key, watermark }: SoapRecordsQuery = typeof query === 'string' ? { operation: query } : query
  const source = `${client.target}#${operation}`
  // What is fetched is read, and may be read again.
  const answer = await client.call(operation, args, { signal, idempotent: true })
  const records = items === undefined ? [answer] : recordsAt(answer, items, client.target, operation)
  for (const [position, data] of records.entries()) {
    signal.throwIfAborted()
    const [foundKey, foundMark] = [key, watermark].map((path) => (path === undefined ? undefined : valueAt(data, path)))
    yield ingestedItem({
      source,
      ...(foundKey === undefined || foundKey === null ? {} : { key: textOf(foundKey) }),
      data,
      ...(foundMark === undefined || foundMark === null ? {} : { watermark: textOf(foundMark) }),
      lineage: { protocol: 'soap', query: operation, position },
    })
  }
}

/** A list; one record where no more may stand, none where the element is absent. */
function recordsAt(answer: SoapRecord, path: string, target: string, operation: string): readonly SoapValue[] {
  const found = valueAt(answer, path)
  if (found === undefined || found === null) return []
  if (typeof found !== 'object') throw recordsUnusable(placeOf(target, operation), path)
  return Array.isArray(found) ? (found as readonly SoapValue[]) : [found]
}

function valueAt(value: SoapValue | undefined, path: string): SoapValue | undefined {
  let found = value
  for (const name of path.split('.')) {
    if (typeof found !== 'object' || found === null || !Object.hasOwn(found, name)) return undefined
    found = (found as SoapRecord)[name]
  }
  return found
}

const textOf = (value: SoapValue): string => (typeof value === 'string' ? value : exactJson(value))
