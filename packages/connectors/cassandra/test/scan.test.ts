import { expect, it } from 'vitest'
import { HIGHEST, LOWEST, type Page, scanPages } from '../src/scan.ts'

/** A table of so many rows, evenly on the ring, read in pages of 10; counts what is asked at once. */
function table(count: number) {
  const asked = { pages: 0, now: 0, most: 0 }
  const step = count === 0 ? 1n : 2n ** 64n / BigInt(count)
  const read = async (from: bigint, to: bigint, pageState: string | undefined): Promise<Page> => {
    asked.pages += 1
    asked.now += 1
    asked.most = Math.max(asked.most, asked.now)
    await new Promise((resolve) => setImmediate(resolve))
    asked.now -= 1
    const first = pageState === undefined ? (from - LOWEST) / step + 1n : BigInt(pageState)
    const rows: { token: bigint }[] = []
    for (let index = first; index <= BigInt(count) && rows.length < 10; index++) {
      const token = LOWEST + index * step - 1n
      if (token > to) return { rows }
      if (token > from) rows.push({ token })
    }
    return rows.length < 10 ? { rows } : { rows, pageState: String(first + BigInt(rows.length)) }
  }
  return { asked, read }
}

it.each([
  [0, 1],
  [1, 4],
  [3, 4],
  [1000, 1],
  [1000, 4],
  [5000, 8],
])('reads %i rows once each and in order, %i ranges at once', async (count, concurrency) => {
  const { asked, read } = table(count)
  const tokens: bigint[] = []
  for await (const page of scanPages(read, LOWEST, { concurrency, fetchSize: 10 })) {
    tokens.push(...page.map(({ token }) => token as bigint))
  }
  expect(tokens).toHaveLength(count)
  expect(tokens).toEqual([...new Set(tokens)].toSorted((a, b) => (a < b ? -1 : 1)))
  expect(asked.most).toBeLessThanOrEqual(concurrency + 1)
  expect(asked.most).toBeGreaterThanOrEqual(concurrency)
  // Not many more than there are pages: a few to learn how dense the table is, and one that ends a range.
  expect(asked.pages).toBeLessThanOrEqual(30 * concurrency + (count / 10) * 2.5)
  if (count > 0) {
    const rest: bigint[] = []
    const middle = tokens[Math.floor(count / 2)] ?? HIGHEST
    for await (const page of scanPages(read, middle, { concurrency, fetchSize: 10 })) {
      rest.push(...page.map(({ token }) => token as bigint))
    }
    expect(rest).toEqual(tokens.slice(Math.floor(count / 2) + 1))
  }
})

it('throws what a page throws, also one that was read ahead', async () => {
  const read = async (from: bigint): Promise<Page> => {
    if (from > LOWEST) throw new RangeError('broken')
    return { rows: [{ token: 1n }] }
  }
  const pages = scanPages(read, LOWEST, { concurrency: 4, fetchSize: 10 })
  expect((await pages.next()).value).toHaveLength(1)
  await expect(pages.next()).rejects.toThrow('broken')
})
