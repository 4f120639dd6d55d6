import { DataError, registerSecretValue, Secret } from '@common-handlers/core'
import type { Place } from './mounts.ts'

/** The fields of a secret. Integers beyond 2^53 come as bigint. */
export type SecretData = Record<string, unknown>

/** Every string in a tree. */
export function* strings(value: unknown): Generator<string> {
  if (typeof value === 'string') yield value
  else if (typeof value === 'object' && value !== null) for (const inner of Object.values(value)) yield* strings(inner)
}

/**
 * Registers every text of a secret with the scrubber, but for what stands in the path and is no secret: the user "postgres" in
 * secret/postgres/db, without whom no message could name the path any more.
 */
export function registerTexts(place: Pick<Place, 'path'>, data: unknown): void {
  const open = new Set(place.path.split('/'))
  for (const text of strings(data)) if (!open.has(text)) registerSecretValue(text)
}

/**
 * Refuses what would come back as something else than it was. A version 2 mount keeps every number as a 64-bit float, in Vault
 * and in OpenBao (`json.Unmarshal` in the read of path_data.go of the KV plugin).
 * @throws DataError `VAULT_VALUE_INEXACT`, which names the field and no value
 */
export function assertExact(place: Place, data: SecretData): void {
  const refuse = (field: string, reason: string): never => {
    throw new DataError(`${place.path}: the field ${field} ${reason}`, {
      code: 'VAULT_VALUE_INEXACT',
      context: { path: place.path, field },
      where: { file: place.path, column: field },
    })
  }
  const walk = (field: string, value: unknown): void => {
    if (typeof value === 'string') {
      if (!value.isWellFormed()) refuse(field, 'holds half a surrogate pair, which is no text')
    } else if (typeof value === 'number') {
      if (!Number.isFinite(value)) refuse(field, 'is no number of JSON')
    } else if (typeof value === 'bigint') {
      if (place.version === 2 && String(Number(value)) !== String(value)) {
        refuse(field, 'is an integer that a KV version 2 mount would round; write it as text')
      }
    } else if (Array.isArray(value)) {
      for (const [index, inner] of value.entries()) walk(`${field}.${index}`, inner)
    } else if (isTree(value)) {
      for (const [key, inner] of Object.entries(value)) walk(field === '' ? key : `${field}.${key}`, inner)
    } else if (value !== null && value !== undefined && typeof value !== 'boolean' && !Secret.is(value)) {
      refuse(field, 'is nothing that JSON has; write text, numbers, booleans, null, lists and plain objects')
    }
  }
  walk('', data)
}

/** A JSON merge patch (RFC 7396): null takes a field away, an object is merged, everything else takes the place of what was. */
export function mergePatch(target: unknown, patch: unknown): unknown {
  if (!isTree(patch)) return patch
  const merged = new Map(isTree(target) ? Object.entries(target) : [])
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) merged.delete(key)
    else if (value !== undefined) merged.set(key, mergePatch(merged.get(key), value))
  }
  return Object.fromEntries(merged)
}

function isTree(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value) || Secret.is(value)) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || prototype === Object.prototype
}
