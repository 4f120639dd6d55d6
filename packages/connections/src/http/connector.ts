import { type CheckAttempt, HandlerError, runCheck } from '@common-handlers/core'
import { type HttpConfig, type HttpConfigInput, httpConfigSchema } from '../config.ts'
import type { ConnectorContext, ConnectorDefinition } from '../contract.ts'
import { exactJson, type IngestedItem, ingestedItem } from '../ingestion.ts'
import { networkSteps } from '../network-check.ts'
import type { HttpClient, RestRequest } from './client.ts'
import { pages, type Pagination, valueAt } from './pages.ts'

/** What the `http` connector fetches; a path alone is one item, the whole answer. */
export type HttpQuery = string | HttpRecordsQuery

export interface HttpRecordsQuery extends Pick<RestRequest, 'method' | 'path' | 'query' | 'headers' | 'body'> {
  /** Where the list stands in the answer: `data.items`; empty for the answer itself. Each of its records is an item. Default: the whole answer is one item. */
  readonly items?: string | undefined
  /** Where a record's key stands: `id`. */
  readonly key?: string | undefined
  readonly pages?: Pagination | undefined
  /** That of an earlier item: nothing is fetched if the answer has not changed since (its ETag). */
  readonly watermark?: string | undefined
}

/** REST APIs over HTTP. */
export const http: ConnectorDefinition<'http', HttpConfigInput, HttpConfig, HttpClient, HttpQuery> = {
  protocol: 'http',
  prefix: 'HTTP',
  packageName: '@common-handlers/connections',
  configSchema: httpConfigSchema,
  fromUrl: (url) => {
    const base = new URL(url)
    base.username = ''
    base.password = ''
    return {
      baseUrl: base.href,
      ...(url.username === '' ? {} : { username: decodeURIComponent(url.username), password: decodeURIComponent(url.password) }),
    }
  },
  open: async (config, { signal }) => {
    const client = await createClient(config)
    try {
      await client.login({ signal })
    } catch (error) {
      await client.close()
      throw error
    }
    return client
  },
  test: async (config, { signal }) => {
    await using client = await createClient(config)
    const base = new URL(config.baseUrl)
    const isSecure = base.protocol === 'https:'
    const steps: CheckAttempt[] = [
      ...networkSteps({
        host: base.hostname,
        port: base.port === '' ? (isSecure ? 443 : 80) : Number(base.port),
        ...(isSecure ? { tls: { ca: config.ca } } : {}),
        signal,
      }),
      ...(config.tokenUrl === undefined ? [] : [{ name: 'log in', run: async () => nothing(await client.login({ signal })) }]),
      { name: `ask for ${config.healthPath ?? base.pathname}`, run: () => ask(client, config, signal) },
    ]
    return await runCheck(base.origin, steps, signal)
  },
  fetch: fetchItems,
}

const nothing = (_done: void): undefined => undefined

/** The driver is loaded with the first client. */
async function createClient(config: HttpConfig): Promise<HttpClient> {
  const { HttpClient } = await import('./client.ts')
  return new HttpClient(config)
}

async function ask(client: HttpClient, config: HttpConfig, signal: AbortSignal): Promise<string> {
  try {
    const { status, headers } = await client.requestRest({ path: config.healthPath, signal })
    return [`answered ${status}`, headers['server']].filter((part) => part !== undefined).join(', ')
  } catch (error) {
    // The base of an API is often nothing itself.
    if (config.healthPath === undefined && HandlerError.is(error) && error.code === 'HTTP_NOT_FOUND') return 'answered 404'
    throw error
  }
}

async function* fetchItems(
  client: HttpClient,
  query: HttpQuery,
  { signal }: ConnectorContext,
): AsyncGenerator<IngestedItem, void, undefined> {
  const {
    items,
    key,
    pages: pagination,
    watermark,
    ...request
  }: HttpRecordsQuery = typeof query === 'string' ? { path: query } : query
  const conditional = { ...request, signal, ...(watermark === undefined ? {} : { etag: watermark }) }
  // Keys and tokens may stand in the query.
  const asked = `${request.method ?? 'GET'} ${request.path?.split('?')[0] ?? ''}`
  if (items === undefined && pagination === undefined) {
    const { status, url, body, bytes, mediaType, etag } = await client.requestRest(conditional)
    if (status === 304) return
    const lineage = { protocol: 'http', query: asked, position: 0 }
    yield ingestedItem(
      { source: withoutQuery(url), data: body, mediaType, lineage, ...(etag === undefined ? {} : { watermark: etag }) },
      bytes,
    )
    return
  }
  let position = 0
  let first: string | undefined
  for await (const { response, records } of pages(client, conditional, items ?? '', pagination)) {
    // The ETag of one page says nothing about the others.
    if (pagination === undefined) first = response.etag
    for (const data of records) {
      const found = key === undefined ? undefined : valueAt(data, key)
      yield ingestedItem({
        source: withoutQuery(response.url),
        ...(found === undefined ? {} : { key: typeof found === 'string' ? found : exactJson(found) }),
        data,
        ...(first === undefined ? {} : { watermark: first }),
        lineage: { protocol: 'http', query: asked, position: position++ },
      })
    }
  }
}

function withoutQuery(url: string): string {
  const { origin, pathname } = new URL(url)
  return `${origin}${pathname}`
}
