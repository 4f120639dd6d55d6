import { setTimeout as sleep } from 'node:timers/promises'
import type { TrinoAddress } from './addresses.ts'

export interface TrinoRows {
  readonly columns: readonly string[]
  /** Values as Trino's JSON gives them. */
  readonly rows: readonly (readonly unknown[])[]
}

/** Runs one statement to its end and returns its rows: for arranging and checking in tests. @throws if Trino reports an error. */
export async function runOnTrino(
  server: Pick<TrinoAddress, 'url' | 'user'>,
  sql: string,
  options: { readonly signal?: AbortSignal } = {},
): Promise<TrinoRows> {
  const signal = options.signal === undefined ? {} : { signal: options.signal }
  const headers = {
    'x-trino-user': server.user,
    'x-trino-time-zone': 'UTC',
    // Without it timestamps are cut to milliseconds.
    'x-trino-client-capabilities': 'PARAMETRIC_DATETIME',
  }
  let answer = await page(`${server.url}/v1/statement`, { method: 'POST', body: sql, headers, ...signal })
  let columns: string[] = []
  const rows: unknown[][] = []
  for (;;) {
    if (answer.error !== undefined) throw new Error(`${answer.error.errorName}: ${answer.error.message}`)
    if (answer.columns !== undefined) columns = answer.columns.map((column) => column.name)
    for (const row of answer.data ?? []) rows.push(row)
    if (answer.nextUri === undefined) return { columns, rows }
    answer = await page(answer.nextUri, { headers, ...signal })
  }
}

interface Page {
  readonly nextUri?: string
  readonly columns?: readonly { readonly name: string }[]
  readonly data?: readonly unknown[][]
  readonly error?: { readonly message: string; readonly errorName: string }
}

async function page(url: string, request: RequestInit): Promise<Page> {
  for (;;) {
    const response = await fetch(url, request)
    const text = await response.text()
    if (response.ok) return JSON.parse(text) as Page
    // The protocol's "come again later".
    if (response.status !== 503) throw new Error(`Trino answered ${response.status}: ${text.slice(0, 300)}`)
    await sleep(100)
  }
}
