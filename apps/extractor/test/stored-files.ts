import { gunzipSync, zstdDecompressSync } from 'node:zlib'
import { type Manifest, runPrefix } from '@common-handlers/dataset'
import type { ObjectStore } from '@common-handlers/storage'

/** Every frame of a file; Node's own function stops after the first. */
export function unzstd(bytes: Buffer): Buffer {
  const frames: Buffer[] = []
  for (let at = 0; at < bytes.byteLength;) {
    const { buffer, engine } = zstdDecompressSync(bytes.subarray(at), { info: true }) as unknown as {
      buffer: Buffer
      engine: { bytesWritten: number }
    }
    frames.push(buffer)
    at += engine.bytesWritten
  }
  return Buffer.concat(frames)
}

/** A file of a run without its compression. */
export async function readPart(store: ObjectStore, manifest: Manifest, name: string): Promise<Buffer> {
  const { bytes } = await store.getBytes(runPrefix(manifest.dataset, manifest.runId) + name)
  const { compression } = manifest.format
  return compression === 'gzip' ? gunzipSync(bytes) : compression === 'zstd' ? unzstd(bytes) : bytes
}

/** The rows of a run, in order, without the header lines of the files. */
export async function readRows(store: ObjectStore, manifest: Manifest): Promise<Buffer> {
  const parts: Buffer[] = []
  for (const { name } of manifest.files) {
    const bytes = await readPart(store, manifest, name)
    parts.push(bytes.subarray(bytes.indexOf('\n') + 1))
  }
  return Buffer.concat(parts)
}
