import { ingestedItem } from '@common-handlers/connections'
import type { LakeItem } from '../src/index.ts'

/** A message as a connector would hand it over. */
export function message(key: string, payload: string, source = 'kafka:orders'): LakeItem {
  const received = Buffer.from(payload)
  const lineage = { protocol: 'kafka', query: 'orders', position: 0 }
  return { ...ingestedItem({ source, key, data: JSON.parse(payload) as unknown, lineage }, received), received }
}

export const messages = (from: number, to: number): LakeItem[] =>
  Array.from({ length: to - from }, (_, index) => message(String(from + index), `{"id":${from + index}}`))
