import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { finished } from 'node:stream/promises'
import { constants, zstdCompressSync } from 'node:zlib'
import { decompress } from '@common-handlers/core'
import { describe, expect, it } from 'vitest'

describe('decompress', () => {
  it('reads zstd frames that are cut anywhere, larger than the buffers between, and finds what is cut off or no zstd', async () => {
    const text = Array.from({ length: 50_000 }, (_, row) => `${row},${row * 7919}\n`)
    const checksummed = { params: { [constants.ZSTD_c_checksumFlag]: 1 } }
    const skippable = Buffer.from('5f2a4d180300000061620a', 'hex')
    const frames = [
      ...[text.slice(0, 30_000), text.slice(30_000)].map((rows) => zstdCompressSync(rows.join(''), checksummed)),
      skippable,
      zstdCompressSync('y'.repeat(300_000)),
      zstdCompressSync('x,y\n'),
    ]
    const bytes = Buffer.concat(frames)
    const pieces = (size: number): Buffer[] =>
      Array.from({ length: Math.ceil(bytes.length / size) }, (_, at) => bytes.subarray(at * size, (at + 1) * size))
    for (const size of [97, 4096, bytes.length]) {
      expect((await buffer(decompress(Readable.from(pieces(size)), 'zstd'))).toString()).toBe(
        `${text.join('')}${'y'.repeat(300_000)}x,y\n`,
      )
    }
    await expect(buffer(decompress(Readable.from([bytes.subarray(0, -3)]), 'zstd'))).rejects.toThrow()
    await expect(
      buffer(decompress(Readable.from([frames.at(-1) ?? bytes, Buffer.from('no zstd at all')]), 'zstd')),
    ).rejects.toThrow()
    const source = Readable.from(pieces(97))
    const left = decompress(source, 'zstd')
    left.destroy()
    await finished(source).catch(() => undefined)
    expect(source.destroyed).toBe(true)
  })
})
