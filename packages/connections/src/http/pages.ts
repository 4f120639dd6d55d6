import { createHash } from 'node:crypto'
import { answerUnusable } from './errors.ts'
import type { HttpClient, RestRequest, RestResponse } from './client.ts'

/** How an API hands a long list over. */
export type Pagination =
  /** The URL of the next page: in the `Link` header (RFC 8288), or in the answer at `at` (`links.next`). */
  | { readonly by: 'link'; readonly at?: string | undefined }
  /** A cursor in the answer at `at`, sent back as `parameter` (default `cursor`), until there is none. */
  | { readonly by: 'cursor'; readonly at: string; readonly parameter?: string | undefined }
  /** `parameter` (default `page`) counts from `first` (default 1) until a page is empty. */
  | { readonly by: 'page'; readonly parameter?: string | undefined; readonly first?: number | undefined }
  /** `parameter` (default `offset`) is the number of records had, until a page is empty. */
  | { readonly by: 'offset'; readonly parameter?: string | undefined }

/** One page, its records found. */
export interface Page {
  readonly response: RestResponse
  readonly records: readonly unknown[]
}

/** The pages of a list, one at a time. `items` is where its records stand: `data.items`; empty for the answer itself. */
export async function* pages(
  client: Pick<HttpClient, 'requestRest'>,
  request: RestRequest,
  items: string,
  pagination: Pagination | undefined,
): AsyncGenerator<Page, void, undefined> {
  let next: RestRequest = start(request, pagination)
  let had = 0
  let before = ''
  const seen = new Set<string>()
  for (let number = 0; ; number++) {
    const response = await client.requestRest(next)
    if (response.status === 304) return
    const place = { method: next.method ?? 'GET', url: new URL(response.url) }
    const records = valueAt(response.body, items)
    if (!Array.isArray(records)) throw answerUnusable(place, `there is no list at "${items === '' ? '(top)' : items}"`)
    const digest = createHash('sha256').update(response.bytes).digest('base64')
    if (records.length > 0 && digest === before)
      throw answerUnusable(place, `page ${number + 1} is page ${number} again: does the server know the parameter?`)
    before = digest
    yield { response, records }
    had += records.length
    const step = follow(request, pagination, { response, records, number, had })
    if (step === undefined) return
    if (step.position !== undefined) {
      if (seen.has(step.position)) throw answerUnusable(place, 'the next page is one that was read before')
      seen.add(step.position)
    }
    next = step.request
  }
}

function start(request: RestRequest, pagination: Pagination | undefined): RestRequest {
  if (pagination?.by === 'page') return withQuery(request, pagination.parameter ?? 'page', pagination.first ?? 1)
  if (pagination?.by === 'offset') return withQuery(request, pagination.parameter ?? 'offset', 0)
  return request
}

interface Step {
  readonly request: RestRequest
  /** What must not come twice. */
  readonly position?: string
}

function follow(
  first: RestRequest,
  pagination: Pagination | undefined,
  { response, records, number, had }: Page & { readonly number: number; readonly had: number },
): Step | undefined {
  // The condition is that of the first page.
  const { etag: _etag, ...request } = first
  switch (pagination?.by) {
    case undefined:
      return undefined
    case 'link': {
      const target = pagination.at === undefined ? nextLink(response.headers['link']) : valueAt(response.body, pagination.at)
      if (typeof target !== 'string' || target === '') return undefined
      const path = new URL(target, response.url).href
      return { request: { ...request, path, query: undefined }, position: path }
    }
    case 'cursor': {
      const cursor = valueAt(response.body, pagination.at)
      if (typeof cursor !== 'string' && typeof cursor !== 'number' && typeof cursor !== 'bigint') return undefined
      if (cursor === '') return undefined
      return { request: withQuery(request, pagination.parameter ?? 'cursor', cursor), position: String(cursor) }
    }
    case 'page':
      if (records.length === 0) return undefined
      return { request: withQuery(request, pagination.parameter ?? 'page', (pagination.first ?? 1) + number + 1) }
    case 'offset':
      return records.length === 0 ? undefined : { request: withQuery(request, pagination.parameter ?? 'offset', had) }
  }
}

const withQuery = (request: RestRequest, name: string, value: string | number | bigint): RestRequest => ({
  ...request,
  query: { ...request.query, [name]: value },
})

/** The value at `a.b.c`; the whole for an empty path. */
export function valueAt(value: unknown, path: string): unknown {
  let current = value
  for (const key of path === '' ? [] : path.split('.')) {
    if (typeof current !== 'object' || current === null || !Object.hasOwn(current, key)) return undefined
    current = (current as Readonly<Record<string, unknown>>)[key]
  }
  return current
}

/** The target with `rel="next"` of a `Link` header. */
export function nextLink(header: string | undefined): string | undefined {
  for (const [, target, parameters = ''] of (header ?? '').matchAll(
    /<([^>]*)>((?:\s*;\s*[^\s=;,]+\s*(?:=\s*(?:"[^"]*"|[^\s";,]+))?)*)/g,
  )) {
    const rel = /;\s*rel\s*=\s*(?:"([^"]*)"|([^\s";,]+))/i.exec(parameters)
    if ((rel?.[1] ?? rel?.[2] ?? '').toLowerCase().split(/\s+/).includes('next')) return target
  }
  return undefined
}
