import { onAbort } from '@common-handlers/core'

/** What a promise comes to, unless the signal is aborted first: then its reason, and the promise is left to itself. */
export function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason as Error)
    if (signal.aborted) abort()
    work.finally(onAbort(signal, abort)).then(resolve, reject)
  })
}

/** The same for what comes one by one. A source that does not answer is told to end, and not waited for. */
export async function* untilAborted<T>(
  source: Iterable<T> | AsyncIterable<T>,
  signal: AbortSignal,
): AsyncGenerator<T, void, undefined> {
  if (!(Symbol.asyncIterator in source)) {
    yield* source
    return
  }
  const iterator = source[Symbol.asyncIterator]()
  let open = true
  try {
    for (;;) {
      const next = await unlessAborted(iterator.next(), signal)
      open = next.done !== true
      if (next.done === true) return
      yield next.value
    }
  } finally {
    if (open) void Promise.resolve(iterator.return?.()).catch(() => undefined)
  }
}
