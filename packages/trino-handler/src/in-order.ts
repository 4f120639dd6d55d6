/**
 * Starts the work on the next items while the present one is read, and gives the results in the order of the items:
 * `ahead()` of them are under way at most. Who leaves early ends the source himself; what is still under way is dropped.
 */
export async function* inOrder<Item, Result>(
  source: AsyncGenerator<Item, void, undefined>,
  start: (item: Item) => Promise<Result>,
  ahead: () => number,
): AsyncGenerator<Result, void, undefined> {
  const underWay: Promise<{ readonly result: Result } | undefined>[] = []
  const state = { exhausted: false }
  const pull = async (): Promise<{ readonly result: Result } | undefined> => {
    const next = await source.next()
    if (next.done !== true) return { result: await start(next.value) }
    state.exhausted = true
    return undefined
  }
  const fill = (): void => {
    while (!state.exhausted && underWay.length < ahead()) {
      const pulled = pull()
      // Waited for below; until then a failure must not count as unhandled.
      pulled.catch(() => undefined)
      underWay.push(pulled)
    }
  }
  for (;;) {
    fill()
    const done = await underWay.shift()
    if (done === undefined) return
    fill()
    yield done.result
  }
}
