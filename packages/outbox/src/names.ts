import { crc32 } from 'node:zlib'
import { ConfigError } from '@common-handlers/core'

/** What one outbox is called in its database. Several live side by side, each in a schema of its own. */
export interface OutboxNames {
  /** Quoted. */
  readonly schema: string
  /** Workers that sleep listen here. */
  readonly channel: string
  /** First half of the advisory locks of this outbox: the second is the id of a worker, or one of {@link roles}. */
  readonly lockClass: number
}

/** @throws ConfigError `OUTBOX_CONFIG_INVALID` */
export function outboxNames(schema: string): OutboxNames {
  if (schema === '' || Buffer.byteLength(schema) > 50 || schema.includes('\0'))
    throw new ConfigError(`the schema of an outbox has 1 to 50 bytes, not ${JSON.stringify(schema)}`, {
      code: 'OUTBOX_CONFIG_INVALID',
      context: { key: 'schema' },
    })
  const channel = `outbox:${schema}`
  return { schema: `"${schema.replaceAll('"', '""')}"`, channel, lockClass: crc32(channel) | 0 }
}

export function quoteLiteral(text: string): string {
  const quoted = text.replaceAll("'", "''")
  return text.includes('\\') ? ` E'${quoted.replaceAll('\\', '\\\\')}'` : `'${quoted}'`
}

/** What is written into the text of statements that go out together, since those have no parameters. */
export type Literal = string | number | bigint | boolean | null | readonly (string | number | bigint)[]

export function literal(value: Literal): string {
  if (value === null) return 'NULL'
  if (typeof value === 'string') return quoteLiteral(value)
  if (typeof value !== 'object') return String(value)
  const items = value.map((item) => (typeof item === 'string' ? `"${item.replaceAll(/["\\]/g, '\\$&')}"` : item))
  return quoteLiteral(`{${items.join(',')}}`)
}
