import { randomBytes, randomUUID } from 'node:crypto'
import { HandlerError } from '@common-handlers/core'
import { type Checksum, checksumOf } from './checksum.ts'
import type { S3Config } from './config.ts'
import type { S3Driver } from './driver.ts'
import type { S3Parts } from './parts.ts'
import { readTags } from './tagging.ts'
import { getVersioning, type S3Versioning } from './versions.ts'

/** What a server was seen to do. `false` is both a refusal and a feature that is taken and ignored. */
export interface S3Dialect {
  /** `https://host/bucket/key` */
  readonly pathStyle: boolean
  /** `https://bucket.host/key` */
  readonly hostStyle: boolean
  /** Bodies that are no part of the signature. */
  readonly unsignedPayload: boolean
  /** Refuses a body whose CRC32 is another one. */
  readonly checksums: boolean
  /** Of two writers that want a key to be absent, refuses the second. Claims and ledgers need it. */
  readonly ifNoneMatch: boolean
  /** Refuses a write over another etag. */
  readonly ifMatch: boolean
  /** `bytes`: sorted by the bytes of the whole key, as S3 does. */
  readonly listOrder: 'bytes' | 'other'
  /** Many deletes in one request. */
  readonly deleteObjects: boolean
  /** Copies in parts, for objects above 5 GiB. */
  readonly multipartCopy: boolean
  readonly tags: boolean
  /** `unsupported` where the server says so; `off` may be as much as `unsupported`. */
  readonly versioning: S3Versioning | 'unsupported'
  readonly encryption: {
    /** Says that it encrypts with keys of its own when it is asked to. */
    readonly s3: boolean
    /** Asks for the customer's key before it gives the bytes. */
    readonly customer: boolean
  }
  /** Says of an object that it has the class it was written with (`REDUCED_REDUNDANCY`, which costs nothing to try). */
  readonly storageClasses: boolean
  /** What the handler does otherwise from now on than its options say; empty where they fit the server. */
  readonly changed: Partial<Pick<S3Config, 'forcePathStyle' | 'signPayload' | 'checksums'>>
}

/** A driver with other options, of which the probe closes what it opened. */
export type DriverWith = (changed: S3Dialect['changed']) => S3Driver

/** Tries each feature on small objects under a prefix of its own, and takes them away. */
export async function probeDialect(parts: S3Parts, driverWith: DriverWith, signal: AbortSignal): Promise<S3Dialect> {
  const config = parts.config()
  const scratch = parts.fullKey(`_dialect/${randomUUID()}`)
  const opened: S3Driver[] = []
  let working = parts.driver
  const open = (changed: S3Dialect['changed']): S3Driver => {
    const driver = driverWith(changed)
    opened.push(driver)
    return driver
  }
  const at = (name: string): string => `${scratch}/${name}`
  const text = Buffer.from('probe')
  try {
    const lists = (forcePathStyle: boolean, least: number): Promise<boolean> =>
      does(async () => {
        const { items } = await open({ forcePathStyle }).listObjects(`${scratch}/`, { signal })
        // A server that takes the bucket for a part of its own name answers with something else.
        if (items.length < least) throw ignored('the bucket in the name of the host')
      }, [...REFUSED, 'connection', 'not-found'])
    const asConfigured = config.forcePathStyle ?? config.endpoint !== undefined
    const works = await lists(asConfigured, 0)
    // Neither works: what is wrong is no matter of style, and the error says what.
    if (!works && !(await lists(!asConfigured, 0))) await parts.driver.listObjects(`${scratch}/`, { signal })
    const forcePathStyle = works ? asConfigured : !asConfigured
    const driver = open({ forcePathStyle, signPayload: 'always', checksums: 'when-required' })
    working = driver
    const unsigned = open({ forcePathStyle, signPayload: 'never', checksums: 'when-required' })
    const put = (name: string, options: Partial<Parameters<S3Driver['putObject']>[2]> = {}): Promise<string> =>
      driver.putObject(at(name), text, { ...options, signal })

    const etag = await put('object')
    const other = works && (await lists(!asConfigured, 1))
    const unsignedPayload = await does(
      () => unsigned.putObject(at('unsigned'), text, { signal }),
      [...REFUSED, 'auth', 'permission'],
    )
    const sum = checksumOf('crc32', text)
    const wrong: Checksum = checksumOf('crc32', Buffer.from('another'))
    const checksums =
      (await does(() => put('sum', { checksum: sum }))) && !(await does(() => put('sum-wrong', { checksum: wrong })))
    const ifNoneMatch =
      (await does(() => put('absent', { ifNoneMatch: '*' }))) && !(await does(() => put('absent', { ifNoneMatch: '*' })))
    const ifMatch =
      !(await does(() => put('object', { ifMatch: `"${randomBytes(16).toString('hex')}"` }), [...REFUSED, 'not-found'])) &&
      (await does(() => put('object', { ifMatch: etag })))

    for (const name of ['order/a/b', 'order/a-b']) await put(name)
    const { items } = await driver.listObjects(at('order/'), { signal })
    const listOrder = items[0]?.key === at('order/a-b') ? 'bytes' : 'other'
    const deleteObjects = await does(async () => {
      const failed = await driver.deleteObjects([at('order/a/b'), at('order/a-b')], { signal })
      const left = await driver.listObjects(at('order/'), { signal })
      if (failed.length > 0 || left.items.length > 0) throw ignored('DeleteObjects')
    })
    const multipartCopy = await does(() => copyAsPart(driver, config.bucket, at('object'), at('copied'), signal))
    const tagged = { ...parts, driver, try: <T>(_: AbortSignal, work: () => Promise<T>) => work() }
    const tags = await does(async () => {
      await put('tagged', { tags: { probe: 'yes' } })
      if ((await readTags(tagged, at('tagged'), { signal }))['probe'] !== 'yes') throw ignored('PutObjectTagging')
    })
    const versioning = await getVersioning(tagged, signal).catch((error: unknown) => {
      if (isRefusal(error, REFUSED)) return 'unsupported' as const
      throw error
    })
    const encryption = {
      s3: await does(() => put('encrypted', { encryption: { kind: 's3' } })),
      customer:
        (await does(() => put('customer', { encryption: { kind: 'customer', key: randomBytes(32) } }))) &&
        !(await does(() => driver.headObject(at('customer'), { signal }), [...REFUSED, 'permission'])),
    }
    const storageClasses = await does(async () => {
      await put('class', { storageClass: 'REDUCED_REDUNDANCY' })
      if ((await driver.headObject(at('class'), { signal })).storageClass === undefined) throw ignored('x-amz-storage-class')
    })
    const changed: S3Dialect['changed'] = {
      ...(works ? {} : { forcePathStyle }),
      ...(unsignedPayload || config.signPayload === 'always' ? {} : { signPayload: 'always' as const }),
      ...(checksums || config.checksums === 'when-required' ? {} : { checksums: 'when-required' as const }),
    }
    return {
      pathStyle: forcePathStyle || other,
      hostStyle: !forcePathStyle || other,
      unsignedPayload,
      checksums,
      ifNoneMatch,
      ifMatch,
      listOrder,
      deleteObjects,
      multipartCopy,
      tags,
      versioning,
      encryption,
      storageClasses,
      changed,
    }
  } finally {
    await cleanUp(working, scratch)
    for (const driver of opened) driver.destroy()
  }
}

const REFUSED: readonly string[] = ['remote', 'conflict', 'config', 'capacity', 'data']

/** True when it works, false when the server refuses it in one of these ways; anything else is not about the feature. */
async function does(work: () => Promise<unknown>, refusals: readonly string[] = REFUSED): Promise<boolean> {
  try {
    await work()
    return true
  } catch (error) {
    if (error instanceof Ignored || isRefusal(error, refusals)) return false
    throw error
  }
}

const isRefusal = (error: unknown, refusals: readonly string[]): boolean =>
  HandlerError.is(error) && refusals.includes(error.outcome) && error.code !== 'S3_SLOW_DOWN'

/** The server took it and did nothing. */
class Ignored extends Error {}
const ignored = (what: string): Ignored => new Ignored(what)

async function copyAsPart(driver: S3Driver, bucket: string, from: string, to: string, signal: AbortSignal): Promise<void> {
  const { uploadId } = await driver.createMultipartUpload(to, { signal })
  try {
    const CopySource = `${bucket}/${from.split('/').map(encodeURIComponent).join('/')}`
    const part = await driver.send('UploadPartCopy', { Key: to, UploadId: uploadId, PartNumber: 1, CopySource }, { signal })
    await driver.completeMultipartUpload(to, uploadId, [part.CopyPartResult?.ETag ?? ''], { signal })
  } catch (error) {
    await driver.abortMultipartUpload(to, uploadId, { signal: new AbortController().signal }).catch(() => undefined)
    throw error
  }
}

async function cleanUp(driver: S3Driver, scratch: string): Promise<void> {
  const { signal } = new AbortController()
  const { items } = await driver.listObjects(`${scratch}/`, { signal }).catch(() => ({ items: [] }))
  for (const { key } of items) await driver.deleteObject(key, { signal }).catch(() => undefined)
}
