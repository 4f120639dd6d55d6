import type { CassandraRow } from './values.ts'

/** Murmur3Partitioner: https://cassandra.apache.org/doc/latest/cassandra/architecture/dynamo.html. No row has the lowest token. */
export const LOWEST: bigint = -(2n ** 63n)
export const HIGHEST: bigint = 2n ** 63n - 1n

/** One millionth of the ring, until it is known how dense the table is. */
const FIRST_WIDTH = 2n ** 44n
/** How much wider than the last one a range may be. */
const GROWTH = 16n

export interface Page {
  readonly rows: readonly CassandraRow[]
  /** Where the next one begins; absent for the last. */
  readonly pageState?: string | undefined
}

/** Reads one page of the rows whose token is past `from` and not past `to`. */
export type ReadPage = (from: bigint, to: bigint, pageState: string | undefined) => Promise<Page>

interface Lane {
  readonly width: bigint
  readonly pages: AsyncGenerator<readonly CassandraRow[], void, undefined>
}

/**
 * All rows past a token, page by page, in the order of their tokens. `concurrency` ranges are read at once, of each one page
 * ahead; a range is made as wide as will give one page, by how dense the one before it was.
 */
export async function* scanPages(
  read: ReadPage,
  from: bigint,
  { concurrency, fetchSize }: { readonly concurrency: number; readonly fetchSize: number },
): AsyncGenerator<readonly CassandraRow[], void, undefined> {
  const lanes: Lane[] = []
  let begun = from
  let width = FIRST_WIDTH
  for (;;) {
    while (lanes.length < concurrency && begun < HIGHEST) {
      const end = begun + width < HIGHEST ? begun + width : HIGHEST
      lanes.push({ width: end - begun, pages: pagesAhead(read, begun, end) })
      begun = end
    }
    const lane = lanes.shift()
    if (lane === undefined) return
    let rows = 0
    for await (const page of lane.pages) {
      rows += page.length
      yield page
    }
    width = nextWidth(lane.width, rows, fetchSize)
  }
}

function nextWidth(width: bigint, rows: number, wanted: number): bigint {
  const fitting = rows === 0 ? width * GROWTH : (width * BigInt(wanted)) / BigInt(rows)
  const bounded = fitting < width * GROWTH ? fitting : width * GROWTH
  return bounded > 0n ? bounded : 1n
}

/** Begins at once, and stays one page ahead of whoever takes them. */
function pagesAhead(read: ReadPage, from: bigint, to: bigint): AsyncGenerator<readonly CassandraRow[], void, undefined> {
  const ask = (pageState: string | undefined): Promise<Page> => {
    const page = read(from, to, pageState)
    // It is told to whoever takes the page; nobody may come to do so.
    page.catch(() => undefined)
    return page
  }
  const first = ask(undefined)
  return (async function* () {
    for (let next: Promise<Page> | undefined = first; next !== undefined;) {
      const { rows, pageState }: Page = await next
      next = pageState === undefined ? undefined : ask(pageState)
      yield rows
    }
  })()
}
