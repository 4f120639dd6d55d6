// Writes the JSON Schema of the manifest: node --conditions=@common-handlers/source scripts/write-schema.ts
import { writeFile } from 'node:fs/promises'
import { manifestJsonSchema } from '@common-handlers/dataset'

await writeFile(new URL('../schema/manifest-v1.json', import.meta.url), `${JSON.stringify(manifestJsonSchema(), null, 2)}\n`)
