import { inspect } from 'node:util'
import { REDACTED, registerSecretValue } from './redaction.ts'

const brand = Symbol.for('@common-handlers/secret')

/**
 * A value that cannot be printed: inspect, JSON, string templates and logs show `[secret]`. Only `expose()` gives it out.
 * Making one also registers the value with the scrubber, so that it is struck out of every later error and log line.
 */
export class Secret {
  readonly #value: string

  constructor(value: string) {
    this.#value = value
    Object.defineProperty(this, brand, { value: true })
    Object.defineProperty(this, inspect.custom, { value: () => REDACTED })
    registerSecretValue(value)
  }

  /** True for a secret made by any copy of this package. */
  static is(value: unknown): value is Secret {
    return typeof value === 'object' && value !== null && brand in value
  }

  /** The value itself. Call it where the value is handed to a driver, and nowhere else. */
  expose(): string {
    return this.#value
  }

  toString(): string {
    return REDACTED
  }
  toJSON(): string {
    return REDACTED
  }
  [Symbol.toPrimitive](): string {
    return REDACTED
  }
}
