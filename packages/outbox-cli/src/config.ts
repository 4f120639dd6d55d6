import { secret, Secret } from '@common-handlers/core'
import { z } from 'zod'

export interface OutboxCliConfig {
  readonly url?: Secret | undefined
  readonly schema: string
  readonly connections: number
  readonly token?: Secret | undefined
}

export interface OutboxCliConfigInput {
  readonly url?: string | Secret | undefined
  readonly schema?: string | undefined
  readonly connections?: number | undefined
  readonly token?: string | Secret | undefined
}

/** One strict schema for file, environment (`OUTBOX_*`) and `--set`. */
export const outboxCliConfigSchema: z.ZodType<OutboxCliConfig, OutboxCliConfigInput> = z.strictObject({
  url: secret().optional().describe('the database, postgres://user:password@host/name; DATABASE_URL or PGHOST, … by default'),
  schema: z.string().min(1).default('outbox').describe('schema of the outbox in the database'),
  connections: z.int().min(3).max(1000).default(20).describe('connections that are open at a time at most'),
  token: secret().optional().describe('who gives it to the dashboard may redrive, pause and resume; 16 characters at least'),
})

/** `--url`, then the configuration, then DATABASE_URL; without any of them the driver reads PGHOST, PGUSER, …. */
export function connectionUrl(config: OutboxCliConfig, option: unknown): Secret | undefined {
  if (typeof option === 'string') return new Secret(option)
  const variable = process.env['DATABASE_URL']
  return config.url ?? (variable === undefined || variable === '' ? undefined : new Secret(variable))
}

/** The environment of this process for others that do the same: with the address of the database, and without a port to listen on. */
export function environmentOfProcesses(url: Secret | undefined): Record<string, string> {
  const { OUTBOX_LISTEN: _listen, OUTBOX_PUSH_METRICS: _push, ...rest } = process.env
  const given = Object.entries(rest).flatMap(([name, value]) => (value === undefined ? [] : [[name, value] as const]))
  return { ...Object.fromEntries(given), ...(url === undefined ? {} : { OUTBOX_URL: url.expose() }) }
}
