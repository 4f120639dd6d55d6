// Writes the JSON Schema of the data contract: node --conditions=@common-handlers/source scripts/write-schema.ts
import { writeFile } from 'node:fs/promises'
import { ingestionJsonSchema } from '@common-handlers/connections'

await writeFile(
  new URL('../schema/ingestion-result-v1.json', import.meta.url),
  `${JSON.stringify(ingestionJsonSchema(), null, 2)}\n`,
)
