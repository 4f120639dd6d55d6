/** Who waits for a signal. Listeners of its own are dear, and one signal, that of close(), has all calls of a handler. */
const waiting = new WeakMap<AbortSignal, Set<() => void>>()

/** Calls back when the signal is aborted, unless what it returns was called before. */
export function onAbort(signal: AbortSignal, listener: () => void): () => void {
  let listeners = waiting.get(signal)
  if (listeners === undefined) {
    const all = new Set<() => void>()
    signal.addEventListener('abort', () => all.forEach((call) => call()), { once: true })
    waiting.set(signal, all)
    listeners = all
  }
  const mine = listeners.add(listener)
  return () => void mine.delete(listener)
}

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
