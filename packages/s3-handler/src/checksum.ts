import { createHash, type Hash } from 'node:crypto'
import { crc32 } from 'node:zlib'

/** Those that Node computes natively. CRC64NVME is not among them, and a table in JavaScript does 300 MB a second. */
export type ChecksumAlgorithm = 'crc32' | 'sha256'

export interface Checksum {
  readonly algorithm: ChecksumAlgorithm
  /** Base64, as S3's headers have it. */
  readonly value: string
}

/** Bytes that come one after the other. */
export class RunningChecksum {
  readonly #algorithm: ChecksumAlgorithm
  readonly #hash: Hash | undefined
  #crc = 0

  constructor(algorithm: ChecksumAlgorithm) {
    this.#algorithm = algorithm
    this.#hash = algorithm === 'sha256' ? createHash('sha256') : undefined
  }

  update(bytes: Uint8Array): void {
    if (this.#hash === undefined) this.#crc = crc32(bytes, this.#crc)
    else this.#hash.update(bytes)
  }

  /** The end: a running SHA-256 gives its value once. */
  value(): Checksum {
    return { algorithm: this.#algorithm, value: this.#hash?.digest('base64') ?? crcText(this.#crc) }
  }
}

export function checksumOf(algorithm: ChecksumAlgorithm, bytes: Uint8Array): Checksum {
  const running = new RunningChecksum(algorithm)
  running.update(bytes)
  return running.value()
}

/** S3 keeps a CRC of all bytes for an object of parts, and a SHA-256 of the parts' own. */
export function wholeOrParts(algorithm: ChecksumAlgorithm): 'FULL_OBJECT' | 'COMPOSITE' {
  return algorithm === 'crc32' ? 'FULL_OBJECT' : 'COMPOSITE'
}

/** The checksum of the whole object in the headers of an answer; one of its parts (`…-7`) says nothing about the whole. */
export function wholeChecksum(headers: Readonly<Record<string, string>>): Checksum | undefined {
  if (headers['x-amz-checksum-type'] === 'COMPOSITE') return undefined
  for (const algorithm of ['crc32', 'sha256'] as const) {
    const value = headers[`x-amz-checksum-${algorithm}`]
    if (value !== undefined && !value.includes('-')) return { algorithm, value }
  }
  return undefined
}

function crcText(crc: number): string {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(crc)
  return bytes.toString('base64')
}

/**
 * The CRC32 of two pieces together, from theirs and the length of the second: appending so many zero bytes to the first is
 * a linear map of its 32 bits, whose powers of two are multiplied up (Mark Adler's crc32_combine of zlib).
 */
export function joinCrc32(first: Checksum, second: Checksum, secondLength: number): Checksum {
  let crc = crcOf(first)
  // One zero bit: the polynomial for the lowest bit, a shift for the others.
  let power: number[] = [0xedb88320, ...Array.from({ length: 31 }, (_, bit) => 2 ** bit)]
  for (let squarings = 0; squarings < 3; squarings++) power = squared(power)
  for (let length = secondLength; length > 0; length = Math.floor(length / 2)) {
    if (length % 2 === 1) crc = times(power, crc)
    power = squared(power)
  }
  return { algorithm: 'crc32', value: crcText((crc ^ crcOf(second)) >>> 0) }
}

function crcOf({ value }: Checksum): number {
  return Buffer.from(value, 'base64').readUInt32BE()
}

function times(matrix: readonly number[], vector: number): number {
  let sum = 0
  for (let bit = 0, rest = vector; rest !== 0; bit++, rest >>>= 1) if ((rest & 1) === 1) sum ^= matrix[bit] ?? 0
  return sum >>> 0
}

function squared(matrix: readonly number[]): number[] {
  return matrix.map((row) => times(matrix, row))
}
