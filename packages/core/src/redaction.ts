/**
 * What stands where a secret stood. One registry for the whole process (shared by every copy of this package), since a
 * secret read by one handler turns up in the error of another.
 */
export const REDACTED = '[secret]'

interface Registry {
  readonly values: Set<string>
  /** Made of the values when it is needed first. */
  pattern: KnownPattern | undefined
}

interface KnownPattern {
  /** Struck out one by one: a regular expression takes no alternative of more than some ten thousand characters. */
  readonly long: readonly string[]
  readonly short: RegExp | undefined
}

const registry: Registry = ((globalThis as Record<symbol, unknown>)[Symbol.for('@common-handlers/known-secrets')] ??= {
  values: new Set<string>(),
  pattern: undefined,
} satisfies Registry) as Registry

/** The oldest values are forgotten past this number, so that rotation for months does not grow the registry. */
const MAX_KNOWN = 10_000
/** Shorter values would strike out ordinary words and numbers everywhere. */
const MIN_LENGTH = 4
/** Values shorter than this are only struck out where they stand as a word of their own. */
const ANYWHERE_LENGTH = 8
/** Longer spellings are looked for one by one, the others all at once. */
const LONG_LENGTH = 256

/** Registers a value that must appear in no log, error or message from now on. Values under 4 characters are ignored. */
export function registerSecretValue(value: string): void {
  if (value.length < MIN_LENGTH || registry.values.has(value)) return
  registry.values.add(value)
  if (registry.values.size > MAX_KNOWN) {
    const [oldest] = registry.values
    if (oldest !== undefined) registry.values.delete(oldest)
  }
  registry.pattern = undefined
}

const escape = (text: string): string => text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')

/** As it is, inside a URL, and inside JSON: the three spellings in which values meet logs. */
const spellings = (value: string): string[] => [
  value,
  encodeURIComponent(value.toWellFormed()),
  JSON.stringify(value).slice(1, -1),
]

function knownPattern(): KnownPattern {
  const long = new Set<string>()
  const short = new Set<string>()
  for (const value of registry.values) {
    for (const spelling of spellings(value)) {
      if (spelling.length > LONG_LENGTH) long.add(spelling)
      else short.add(value.length >= ANYWHERE_LENGTH ? escape(spelling) : `(?<![\\w-])${escape(spelling)}(?![\\w-])`)
    }
  }
  // Longest first: a secret that begins with another one must not leave its tail behind.
  const sort = (texts: Set<string>): string[] => [...texts].toSorted((a, b) => b.length - a.length)
  return { long: sort(long), short: short.size === 0 ? undefined : new RegExp(sort(short).join('|'), 'g') }
}

function strikeKnown(text: string): string {
  const { long, short } = (registry.pattern ??= knownPattern())
  const rest = long.reduce((left, spelling) => left.replaceAll(spelling, REDACTED), text)
  return short === undefined ? rest : rest.replace(short, REDACTED)
}

/** `scheme://user:password@host`; greedy up to the last `@` before a blank, for passwords that hold one themselves. */
const URL_PASSWORD = /([a-z][a-z0-9+.-]*:\/\/[^\s/:@?#]*):[^\s"'<>]*@/gi
const QUERY_SECRET =
  /([?&;](?:password|passwd|pwd|secret|token|access_token|refresh_token|api_?key|sig|x-amz-signature|x-amz-security-token|x-amz-credential)=)[^&;\s"']+/gi
/** libpq's `password=…` in a connection string. */
const KEYWORD_PASSWORD = /\b(password|passwd|pwd)(\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s'"&;,)]+)/gi

/** Strikes out every known secret value, passwords in URLs, secret query parameters and `password=…`. */
export function scrub(text: string): string {
  return strikeKnown(text)
    .replace(URL_PASSWORD, `$1:${REDACTED}@`)
    .replace(QUERY_SECRET, `$1${REDACTED}`)
    .replace(KEYWORD_PASSWORD, `$1$2${REDACTED}`)
}

/** Scrubs every string inside a value made of plain objects and arrays; other objects are left as they are. */
export function scrubDeep(value: unknown): unknown {
  if (typeof value === 'string') return scrub(value)
  if (Array.isArray(value)) return value.map(scrubDeep)
  if (typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype) {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, scrubDeep(inner)]))
  }
  return value
}
