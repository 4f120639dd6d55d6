import { Secret } from '@common-handlers/core'

/** What Node has since version 21 and TypeScript's library does not know yet. */
const { rawJSON } = JSON as unknown as { readonly rawJSON: (text: string) => unknown }

/** JSON, but an integer that a JavaScript number would round becomes a bigint. @throws SyntaxError */
export function parseExact(text: string): unknown {
  return /\d{16}/.test(text) ? JSON.parse(text, toBigint as Parameters<typeof JSON.parse>[1]) : JSON.parse(text)
}

/** JSON, but a bigint is written as the integer it is, and a Secret as what it holds: the result is meant for the server. */
export function writeExact(value: unknown): string {
  return JSON.stringify(value, expose)
}

function toBigint(_key: string, value: unknown, context: { readonly source?: string }): unknown {
  if (typeof value !== 'number' || Number.isSafeInteger(value)) return value
  return context.source !== undefined && /^-?\d+$/.test(context.source) ? BigInt(context.source) : value
}

function expose(this: unknown, key: string, value: unknown): unknown {
  if (typeof value === 'bigint') return rawJSON(String(value))
  // What `value` holds is what the secret's own toJSON made of it.
  const original = (this as Readonly<Record<string, unknown>>)[key]
  return Secret.is(original) ? original.expose() : value
}
