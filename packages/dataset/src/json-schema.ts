import { z } from 'zod'
import { MANIFEST_VERSION, manifestSchema } from './manifest.ts'

/** The manifest's schema as JSON Schema (draft 2020-12), made from the one that checks it; published as `schema/manifest-v1.json`. */
export function manifestJsonSchema(): Record<string, unknown> {
  const { $schema, ...schema } = z.toJSONSchema(manifestSchema)
  return { $schema, title: `Manifest of a dataset run, version ${MANIFEST_VERSION}`, ...schema }
}
