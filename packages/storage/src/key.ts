import { keyInvalid } from './errors.ts'

/** The folder in which the local store keeps what is not an object: files being written, locks. */
export const PRIVATE_FOLDER = '.storage'
const MAX_KEY_BYTES = 1024

/** Checks a key. Keys are `/`-separated names; one that could leave the store is refused. @throws ConfigError `STORAGE_KEY_INVALID` */
export function assertKey(key: string): void {
  if (key === '') throw keyInvalid(key, 'it is empty')
  if (Buffer.byteLength(key) > MAX_KEY_BYTES) throw keyInvalid(key, `it is longer than ${MAX_KEY_BYTES} bytes`)
  if (!key.isWellFormed() || key.includes('\0')) throw keyInvalid(key, 'it holds a NUL or half a surrogate pair')
  const names = key.split('/')
  if (names.includes('')) throw keyInvalid(key, 'a name between two "/" is empty')
  if (names.some((name) => name === '.' || name === '..')) throw keyInvalid(key, '"." and ".." are no names')
  if (names[0] === PRIVATE_FOLDER) throw keyInvalid(key, `${PRIVATE_FOLDER} is the store's own`)
  if (process.platform === 'win32' && /[\\:*?"<>|]/.test(key)) throw keyInvalid(key, 'Windows allows none of \\ : * ? " < > |')
}

/** Checks the beginning of a key: it may end anywhere, but not lead out of the store. */
export function assertPrefix(prefix: string): void {
  const full = `${prefix}x`
  if (prefix !== '') assertKey(full)
}

/** The order in which stores list: by the bytes of UTF-8, as S3 does (JavaScript's own order differs past U+FFFF). */
export function compareKeys(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b))
}
