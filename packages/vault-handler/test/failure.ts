import { HandlerError } from '@common-handlers/core'

/** The handler error with which a call fails. */
export async function failure(work: Promise<unknown>): Promise<HandlerError> {
  const error: unknown = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  if (!HandlerError.is(error)) throw new Error(`expected a HandlerError, got ${String(error)}`, { cause: error })
  return error
}
