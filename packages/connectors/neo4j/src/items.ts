import { type ConnectorContext, exactJson, type IngestedItem, ingestedItem } from '@common-handlers/connections'
import type { Neo4jClient } from './client.ts'
import { extraction, type Neo4jQuery, watermarkOf } from './incremental.ts'
import { toValue } from './values.ts'

/** Reads what a query asks for, a record at a time. */
export async function* fetchItems(
  client: Neo4jClient,
  query: Neo4jQuery,
  { signal }: ConnectorContext,
): AsyncGenerator<IngestedItem, void, undefined> {
  let position = 0
  if ('cypher' in query) {
    for await (const data of client.stream(query.cypher, query.parameters, { signal })) {
      yield ingestedItem({
        source: client.url,
        data,
        lineage: { protocol: 'neo4j', query: query.cypher, position: position++ },
      })
    }
    return
  }
  const plan = extraction(query)
  const source = `${client.url}#${'nodes' in query ? query.nodes : query.relationships}`
  for await (const record of client.read(plan.cypher, plan.parameters, { signal })) {
    const watermark = watermarkOf(record, plan)
    const key = toValue(record.get('key'), plan.keyName)
    yield ingestedItem({
      source,
      ...(key === null ? {} : { key: typeof key === 'string' ? key : exactJson(key) }),
      data: toValue(record.get('entity'), 'entity'),
      ...(watermark === undefined ? {} : { watermark }),
      lineage: { protocol: 'neo4j', query: plan.cypher, position: position++ },
    })
  }
}
