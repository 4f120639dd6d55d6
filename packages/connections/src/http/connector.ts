import { type CheckAttempt, HandlerError, runCheck } from '@common-handlers/core'
import { queryInvalid } from '../files/errors.ts'
import type { FoundFile } from '../files/find.ts'
import { destinationKeys, type FilesDestination, parseDestination, refuseUnknown } from '../files/query.ts'
import { type HttpConfig, type HttpConfigInput, httpConfigSchema } from '../config.ts'
import type { ConnectorContext, ConnectorDefinition } from '../contract.ts'
import { exactJson, type IngestedItem, ingestedItem } from '../ingestion.ts'
import type { HttpClient, RestRequest } from './client.ts'
import { pages, type Pagination, valueAt } from './pages.ts'
import { reachSteps } from './reach.ts'

/** What the `http` connector fetches; a path alone is one item, the whole answer. */
export type HttpQuery = string | HttpRecordsQuery | HttpDownloadQuery

/** Files of any size, each an item: streamed to a target, gone on with where the connection breaks, had once. */
export interface HttpDownloadQuery extends FilesDestination {
  /** One file or several. */
  readonly download: string | HttpFile | readonly (string | HttpFile)[]
}

/** A file to download; a path alone is `{ path }`. */
export interface HttpFile {
  /** Below `baseUrl`, or a whole URL. */
  readonly path: string
  /** Where a target keeps it. Default: its path below `baseUrl`, without query; of another host, behind the name of that. */
  readonly name?: string | undefined
}

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
    const steps: CheckAttempt[] = [
      ...reachSteps(config, signal),
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

function fetchItems(client: HttpClient, query: HttpQuery, context: ConnectorContext): AsyncIterable<IngestedItem> {
  return typeof query === 'object' && 'download' in query
    ? download(client, query, context)
    : fetchRecords(client, query, context)
}

async function* download(
  client: HttpClient,
  { download: asked, ...rest }: HttpDownloadQuery,
  context: ConnectorContext,
): AsyncGenerator<IngestedItem, void, undefined> {
  const [{ HttpFiles }, { transfer }, { stat }] = await Promise.all([
    import('./files.ts'),
    import('../files/fetch.ts'),
    import('../files/find.ts'),
  ])
  refuseUnknown(rest, destinationKeys)
  const paths = new Map<string, string>()
  for (const file of [asked].flat()) {
    const { path, name } = typeof file === 'string' ? { path: file } : file
    const known = checkedName(name ?? client.nameOf(path))
    if (paths.has(known)) throw queryInvalid(`two files of download would be "${known}": give them names`)
    paths.set(known, path)
  }
  const files = new HttpFiles(client, (name) => paths.get(name) ?? name)
  async function* found(): AsyncGenerator<FoundFile> {
    for (const name of paths.keys()) yield { file: await stat(files, name, context.signal), relative: name }
  }
  const lineage = { protocol: 'http', query: 'download' }
  yield* transfer(files, found(), { asked: lineage, destination: parseDestination(rest), ...context })
}

function checkedName(name: string): string {
  if (/[\\\0]/.test(name) || name.split('/').some((part) => ['', '.', '..'].includes(part))) {
    throw queryInvalid(`"${name}" is no name of a file: give one as { path, name }`)
  }
  return name
}

async function* fetchRecords(
  client: HttpClient,
  query: string | HttpRecordsQuery,
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
