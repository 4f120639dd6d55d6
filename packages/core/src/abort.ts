// What many short calls hang on a signal that lives as long as its handler must leave no trace: a listener that Node
// has removed from its list still points to the next one, an entry of a Set's old table to the next table, and what
// AbortSignal.any makes stays until a full collection. Each held the call after it, and 5,000 small requests took 40
// MB more. So one listener stands for all, and an array, whose places are taken again, for those that it calls.

interface Heard {
  readonly callback: () => void
  index: number
}

const heardBy = new WeakMap<AbortSignal, Heard[]>()

/** Calls back when the signal is aborted. Gives what ends it. */
export function onAbort(signal: AbortSignal, callback: () => void): () => void {
  const all = heardBy.get(signal) ?? []
  if (all.length === 0) {
    heardBy.set(signal, all)
    signal.addEventListener('abort', callAll)
  }
  const heard: Heard = { callback, index: all.length }
  all.push(heard)
  return () => {
    if (all[heard.index] !== heard) return
    const last = all.pop()
    if (last !== undefined && last !== heard) {
      last.index = heard.index
      all[last.index] = last
    }
    if (all.length === 0) signal.removeEventListener('abort', callAll)
  }
}

function callAll(this: unknown): void {
  // A copy: who is called lets go.
  const all = heardBy.get(this as AbortSignal)?.slice() ?? []
  for (const { callback } of all) callback()
}

/** Waits for work, or rejects with the signal's reason as soon as it is aborted. That ends the wait and not the work, which others may wait for too. */
export function untilAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason as Error)
    // One that was aborted before says nothing any more.
    if (signal.aborted) abort()
    const release = onAbort(signal, abort)
    work.then(resolve, reject).finally(release)
  })
}
