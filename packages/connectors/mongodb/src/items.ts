import { type ConnectorContext, exactJson, type IngestedItem, ingestedItem } from '@common-handlers/connections'
import type { MongodbClient } from './client.ts'
import type { BsonDocument } from './driver.ts'
import { queryInvalid } from './errors.ts'
import {
  extraction,
  type MongodbChangesQuery,
  type MongodbCollectionQuery,
  type MongodbPipelineQuery,
  type MongodbQuery,
  tokenOf,
  tokenText,
  watermarkOf,
} from './incremental.ts'
import { extendedJson, toDocument, toValue } from './values.ts'

type Items = AsyncGenerator<IngestedItem, void, undefined>

/** Reads what a query asks for, a document at a time. */
export function fetchItems(client: MongodbClient, query: MongodbQuery, { signal }: ConnectorContext): Items {
  if ('changes' in query) return changes(client, query, signal)
  if ('pipeline' in query) return aggregate(client, query, signal)
  return collection(client, query, signal)
}

async function* collection(client: MongodbClient, query: MongodbCollectionQuery, signal: AbortSignal): Items {
  const plan = extraction(query)
  const { filter, sort, projection, hidden } = plan
  const asked = `find ${extendedJson({ filter, sort, ...(projection === undefined ? {} : { projection }) })}`
  let position = 0
  for await (const document of client.read(query.collection, { filter, sort, projection }, { signal })) {
    const watermark = watermarkOf(document, plan)
    const shown =
      hidden.length === 0 ? document : Object.fromEntries(Object.entries(document).filter(([name]) => !hidden.includes(name)))
    yield ingestedItem({
      source: `${client.url}#${query.collection}`,
      ...keyOf(document),
      data: toDocument(shown),
      ...(watermark === undefined ? {} : { watermark }),
      lineage: { protocol: 'mongodb', query: asked, position: position++ },
    })
  }
}

async function* aggregate(client: MongodbClient, query: MongodbPipelineQuery, signal: AbortSignal): Items {
  let position = 0
  for await (const data of client.aggregate(query.collection, query.pipeline, { signal })) {
    yield ingestedItem({
      source: `${client.url}#${query.collection}`,
      ...keyOf(data),
      data,
      lineage: { protocol: 'mongodb', query: `aggregate ${exactJson(query.pipeline)}`, position: position++ },
    })
  }
}

async function* changes(client: MongodbClient, query: MongodbChangesQuery, signal: AbortSignal): Items {
  const { watermark, since, waitMs = 1_000 } = query
  const from = since === undefined ? undefined : new Date(since)
  if (from !== undefined && Number.isNaN(from.getTime())) throw queryInvalid('since is no time: give ISO 8601')
  const start = watermark === undefined ? { since: from } : { after: tokenOf(watermark) }
  let position = 0
  for await (const change of client.changes(query.changes, { ...start, waitMs }, { signal })) {
    const { _id: token, documentKey, ...data } = change
    yield ingestedItem({
      source: `${client.url}#${query.changes}`,
      ...keyOf((documentKey ?? {}) as BsonDocument),
      data: toDocument({ ...data, documentKey }),
      watermark: tokenText(token),
      lineage: { protocol: 'mongodb', query: 'watch', position: position++ },
    })
  }
}

/** An ObjectId as its digits, a text as it is, anything else as JSON. */
function keyOf({ _id: id }: BsonDocument): { readonly key?: string } {
  const value = toValue(id)
  return value === null ? {} : { key: typeof value === 'string' ? value : exactJson(value) }
}
