import { type CheckResult, runCheck, type Secret, secret } from '@common-handlers/core'
import { type ConnectorDefinition, type IngestedItem, ingestedItem } from '@common-handlers/connections'
import { z } from 'zod'

export interface CounterInput {
  readonly host: string
  readonly password?: string | Secret | undefined
  readonly size?: number | undefined
}

interface CounterConfig {
  readonly host: string
  readonly password?: Secret | undefined
  readonly size: number
}

/** A connection with a private member, as drivers have. */
export class Counter {
  readonly config: CounterConfig
  readonly #from = 0
  closed = 0
  constructor(config: CounterConfig) {
    this.config = config
  }
  first(): number {
    return this.#from
  }
  async close(): Promise<void> {
    this.closed += 1
  }
}

const schema: z.ZodType<CounterConfig, CounterInput> = z.strictObject({
  host: z.string().min(1).describe('host'),
  password: secret().optional().describe('password'),
  size: z.int().default(3).describe('size'),
})

/** A connector that counts: `opened` holds each connection that was opened; `gate` holds openings back. */
export function countingConnector(): {
  readonly counter: ConnectorDefinition<'counter', CounterInput, CounterConfig, Counter, { readonly upTo: number }>
  readonly opened: Counter[]
  readonly aborted: unknown[]
  gate: Promise<void>
} {
  const opened: Counter[] = []
  const aborted: unknown[] = []
  const state = { opened, aborted, gate: Promise.resolve() }
  const counter: ConnectorDefinition<'counter', CounterInput, CounterConfig, Counter, { readonly upTo: number }> = {
    protocol: 'counter',
    prefix: 'COUNTER',
    packageName: 'counter-connector',
    configSchema: schema,
    fromUrl: (url) => ({ host: url.hostname, ...(url.password === '' ? {} : { password: url.password }) }),
    open: async (config, { signal }) => {
      signal.addEventListener('abort', () => aborted.push(signal.reason))
      await state.gate
      if (config.host === 'nowhere') throw new Error('nobody there')
      const connection = new Counter(config)
      opened.push(connection)
      return connection
    },
    test: (config): Promise<CheckResult> => runCheck(config.host, [{ name: 'count', run: async () => 'counts' }]),
    async *fetch(connection, { upTo }, { signal }): AsyncGenerator<IngestedItem> {
      for (let data = connection.first(); data < upTo; data++) {
        signal.throwIfAborted()
        const lineage = { protocol: 'counter', query: `up to ${upTo}`, position: data }
        yield ingestedItem({ source: 'counter', data, watermark: String(data), lineage })
      }
    },
  }
  return Object.assign(state, { counter })
}
