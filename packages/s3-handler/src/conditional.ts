import { randomUUID } from 'node:crypto'
import { HandlerError, retry, type RetryOptions } from '@common-handlers/core'
import type { S3Driver } from './driver.ts'
import { customerKeyOf, type ObjectHeaders } from './object-headers.ts'

/** Metadata by which a writer knows its own object again after an answer was lost. */
const WRITE_ID = 'write-id'

export type Condition = { readonly ifNoneMatch: '*' } | { readonly ifMatch: string }

export interface ConditionalContext {
  readonly driver: S3Driver
  readonly retry: RetryOptions
  readonly signal: AbortSignal
}

/**
 * Writes when the condition holds; gives the etag, or undefined when it does not hold (412, or nothing there to match).
 * Another write under way (409) is tried again. A try whose answer was lost may have written: the next one then fails on
 * our own object, so the object is asked for the id that this call wrote into its metadata.
 */
export async function conditionalPut(
  context: ConditionalContext,
  key: string,
  body: Uint8Array,
  condition: Condition,
  headers: ObjectHeaders,
): Promise<string | undefined> {
  const { driver, signal } = context
  const id = randomUUID()
  const metadata = { ...headers.metadata, [WRITE_ID]: id }
  let unanswered = false
  try {
    return await retry(async () => {
      try {
        return await driver.putObject(key, body, { ...headers, ...condition, metadata, signal })
      } catch (error) {
        if (!HandlerError.is(error)) throw error
        const missed = error.code === 'S3_PRECONDITION_FAILED' || error.code === 'S3_OBJECT_NOT_FOUND'
        if (missed) return unanswered ? await writtenByUs(context, key, id, headers) : undefined
        if (error.retry === 'if-idempotent') unanswered = true
        throw error
      }
    }, context.retry)
  } catch (error) {
    if (!unanswered || signal.aborted) throw error
    // Out of tries, and one of them may have been applied: what is there now decides, if the server lets us look.
    const etag = await writtenByUs(context, key, id, headers).catch(() => undefined)
    if (etag === undefined) throw error
    return etag
  }
}

async function writtenByUs(
  { driver, signal, retry: options }: ConditionalContext,
  key: string,
  id: string,
  { encryption }: ObjectHeaders,
): Promise<string | undefined> {
  try {
    const found = await retry(() => driver.headObject(key, { customerKey: customerKeyOf(encryption), signal }), options)
    return found.metadata[WRITE_ID] === id ? found.etag : undefined
  } catch (error) {
    if (HandlerError.is(error) && error.outcome === 'not-found') return undefined
    throw error
  }
}
