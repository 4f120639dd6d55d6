import { createHmac, randomBytes } from 'node:crypto'
import { Secret } from '@common-handlers/core'

/** Of this process alone: what the cache holds tells nobody else what the secrets are, not even by trying values. */
const processKey = randomBytes(32)
const identities = new WeakMap<object, number>()
let nextIdentity = 0

/** The key of a configuration in the cache: the same for the same protocol and values, whatever the order of the keys. */
export function configKey(protocol: string, config: unknown): string {
  return createHmac('sha256', processKey)
    .update(JSON.stringify([protocol, normalise(config)]))
    .digest('base64url')
}

/** JSON in which the type of a value shows, keys sorted. What is no plain value is told apart by identity. */
function normalise(value: unknown): unknown {
  if (value === null || typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') return value
  if (value === undefined) return ['undefined']
  if (typeof value === 'bigint') return ['bigint', value.toString()]
  if (typeof value === 'symbol') return ['symbol', value.toString()]
  if (Secret.is(value)) return ['secret', value.expose()]
  if (Array.isArray(value)) return ['list', ...value.map(normalise)]
  if (value instanceof Uint8Array) return ['bytes', Buffer.from(value).toString('base64')]
  if (Object.getPrototypeOf(value) === Object.prototype || Object.getPrototypeOf(value) === null) {
    const entries = Object.entries(value).filter(([, inner]) => inner !== undefined)
    return { tree: entries.toSorted(([a], [b]) => (a < b ? -1 : 1)).map(([key, inner]) => [key, normalise(inner)]) }
  }
  const found = identities.get(value) ?? nextIdentity++
  identities.set(value, found)
  return ['object', found]
}
