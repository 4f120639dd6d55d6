/** Room for an answer whose length is not known. */
const FIRST = 256 * 1024

/**
 * A body in one buffer of its own. Its chunks are copied as they come, and die young: kept in a list until the end they
 * would outlive the collections of new objects, and be freed only when the heap is large.
 */
export async function collect(body: AsyncIterable<Uint8Array>, length: number): Promise<Buffer> {
  let bytes = Buffer.allocUnsafeSlow(Number.isSafeInteger(length) && length >= 0 ? length : FIRST)
  let filled = 0
  for await (const chunk of body) {
    const needed = filled + chunk.length
    if (needed > bytes.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(needed, 2 * bytes.length))
      bytes.copy(larger, 0, 0, filled)
      free(bytes)
      bytes = larger
    }
    bytes.set(chunk, filled)
    filled = needed
  }
  return bytes.subarray(0, filled)
}

/** Gives the memory of a collected body back at once; what is left of it afterwards is empty. */
export function free(bytes: Buffer): void {
  if (bytes.buffer instanceof ArrayBuffer && !bytes.buffer.detached && isOwn(bytes)) bytes.buffer.transfer(0)
}

/** Small buffers share a slab with others. */
const isOwn = (bytes: Buffer): boolean => bytes.buffer.byteLength > Buffer.poolSize
