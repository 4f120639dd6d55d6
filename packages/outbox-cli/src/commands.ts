import { createServer } from 'node:http'
import { once } from 'node:events'
import { type CommandContext, formatCount, formatDuration, formatTable, parseDuration } from '@common-handlers/cli'
import { ConfigError } from '@common-handlers/core'
import {
  type DeadLetterChoice,
  type EventDetails,
  type EventState,
  migrate as migrateSchema,
  OutboxAdmin,
  OutboxMetrics,
  type OutboxPolicy,
  type OutboxStats,
} from '@common-handlers/outbox'
import { dashboard as dashboardListener } from '@common-handlers/outbox/dashboard'
import type { OutboxCliConfig } from './config.ts'
import { openPool, type Pool } from './database.ts'
import { asCommandError } from './errors.ts'

type Context = CommandContext<OutboxCliConfig>
type Work = (context: Context) => Promise<number | undefined | void>
/** The commands of the program. */
export type CommandName =
  | 'migrate'
  | 'work'
  | 'stats'
  | 'list'
  | 'show'
  | 'blocked'
  | 'redrive'
  | 'purge'
  | 'pause'
  | 'resume'
  | 'cancel'
  | 'policy'
  | 'dashboard'
  | 'bench'

/** Runs a command; what the server answers becomes an error with the right exit code. */
export async function run(name: CommandName, context: Context): Promise<number | undefined | void> {
  try {
    if (name === 'work') return await (await import('./work.ts')).work(context)
    if (name === 'bench') return await (await import('./bench.ts')).bench(context)
    return await works[name](context)
  } catch (error) {
    throw asCommandError(error)
  }
}

const withPool =
  (work: (context: Context, pool: Pool) => Promise<number | undefined | void>): Work =>
  async (context) => {
    const pool = openPool(context.config, context.options['url'], context.logger)
    try {
      return await work(context, pool)
    } finally {
      await pool.end()
    }
  }

const withAdmin = (work: (context: Context, admin: OutboxAdmin) => Promise<number | undefined | void>): Work =>
  withPool((context, pool) => work(context, new OutboxAdmin({ pool, schema: context.config.schema })))

const works: Readonly<Record<Exclude<CommandName, 'work' | 'bench'>, Work>> = {
  migrate: withPool(async ({ config, options, print }, pool) => {
    const dryRun = options['dryRun'] === true
    const { version, applied } = await migrateSchema(pool, { schema: config.schema, dryRun })
    const done = applied.length === 0 ? 'nothing to do' : `${dryRun ? 'would apply' : 'applied'} ${applied.join(', ')}`
    print({
      text: `schema ${config.schema}: ${done}; it has version ${version}`,
      json: { schema: config.schema, version, applied, dryRun },
    })
  }),

  stats: withAdmin(async ({ print }, admin) => {
    const stats = await admin.stats()
    print({ text: describeStats(stats), json: stats })
  }),

  list: withAdmin(async ({ options, print }, admin) => {
    const events = await admin.list({
      type: text(options['type']),
      state: stateOf(options['state']),
      key: text(options['key']),
      limit: options['limit'] === undefined ? undefined : Number(idOf(options['limit'], '--limit')),
      after: options['after'] === undefined ? undefined : idOf(options['after'], '--after'),
    })
    const rows = events.map((event) => [
      String(event.id),
      event.type,
      event.state,
      event.key ?? '',
      String(event.attempts),
      event.createdAt.toISOString(),
      firstLine(event.reason === undefined ? event.error : `${event.reason}: ${event.error ?? ''}`),
    ])
    print({
      text: rows.length === 0 ? 'none' : formatTable([['id', 'type', 'state', 'key', 'attempts', 'created', 'error'], ...rows]),
      json: events,
    })
  }),

  show: withAdmin(async ({ options, print }, admin) => {
    const event = await admin.show(idOf(options['id'], 'id'))
    print({ text: describeEvent(event), json: event })
  }),

  blocked: withAdmin(async ({ print }, admin) => {
    const keys = await admin.blockedKeys()
    const rows = keys.map((one) => [
      one.key,
      String(one.id),
      one.type,
      one.because,
      one.until?.toISOString() ?? '',
      formatCount(one.waiting),
      firstLine(one.error),
    ])
    const head = ['key', 'waits for', 'type', 'because', 'until', 'events behind it', 'error']
    print({ text: rows.length === 0 ? 'no key is blocked' : formatTable([head, ...rows]), json: keys })
  }),

  redrive: withAdmin(async ({ options, signal, print }, admin) => {
    const dryRun = options['yes'] !== true
    const changed = await admin.redrive({ ...chosen(options), dryRun, signal })
    const lines = Object.entries(changed.types).map(([type, count]) => `${type}: ${formatCount(count)}`)
    lines.push(
      changed.count === 0
        ? 'nothing to send back'
        : dryRun
          ? `${formatCount(changed.count)} dead letters would go back as new events; add --yes to send them`
          : `${formatCount(changed.count)} dead letters went back as new events`,
    )
    print({ text: lines.join('\n'), json: { dryRun, ...changed } })
  }),

  purge: withAdmin(async ({ options, signal, print }, admin) => {
    const dryRun = options['yes'] !== true
    const changed = await admin.purge({ ...chosen(options), dryRun, signal })
    const lines = Object.entries(changed.types).map(([type, count]) => `${type}: ${formatCount(count)}`)
    lines.push(
      changed.count === 0
        ? 'nothing to delete'
        : dryRun
          ? `${formatCount(changed.count)} dead letters would be deleted; add --yes to delete them`
          : `${formatCount(changed.count)} dead letters were deleted`,
    )
    print({ text: lines.join('\n'), json: { dryRun, ...changed } })
  }),

  pause: withAdmin(async ({ options, print }, admin) => {
    const type = text(options['type']) ?? ''
    const changed = await admin.pause(type)
    print({ text: changed ? `${type} is paused` : `${type} was paused already`, json: { type, paused: true, changed } })
  }),

  resume: withAdmin(async ({ options, print }, admin) => {
    const type = text(options['type']) ?? ''
    const changed = await admin.resume(type)
    print({ text: changed ? `${type} goes on` : `${type} was not paused`, json: { type, paused: false, changed } })
  }),

  cancel: withAdmin(async ({ options, print }, admin) => {
    const event = await admin.cancel(idOf(options['id'], 'id'))
    print({ text: `cancelled\n${describeEvent(event)}`, json: event })
  }),

  policy: withAdmin(async ({ options, print }, admin) => {
    const changes: Partial<OutboxPolicy> = {
      ...(options['archive'] === undefined ? {} : { archiveDays: daysOf(options['archive'], '--archive') }),
      ...(options['deadLetters'] === undefined ? {} : { deadLetterDays: daysOf(options['deadLetters'], '--dead-letters') }),
    }
    const policy = { ...(await admin.policy()), ...changes }
    if (Object.keys(changes).length > 0) await admin.setPolicy(policy)
    const days = (count: number | undefined, otherwise: string): string =>
      count === undefined ? otherwise : `kept for ${count} ${count === 1 ? 'day' : 'days'}`
    print({
      text: formatTable([
        ['done events', days(policy.archiveDays, 'deleted when they are done')],
        ['dead letters', days(policy.deadLetterDays, 'kept until they are redriven or purged')],
      ]),
      json: { archiveDays: policy.archiveDays ?? null, deadLetterDays: policy.deadLetterDays ?? null },
    })
  }),

  dashboard: withPool(async (context, pool) => {
    const { config, options, logger, signal } = context
    const outbox = { pool, schema: config.schema }
    const metrics = new OutboxMetrics({ outbox })
    context.metrics(() => metrics.render())
    const server = createServer(dashboardListener({ ...outbox, token: config.token?.expose(), logger }))
    const host = text(options['host']) ?? '127.0.0.1'
    const port = options['port'] === undefined ? 8080 : Number(idOf(options['port'], '--port'))
    await new Promise<void>((resolve, reject) => {
      server.once('error', (cause) =>
        reject(
          new ConfigError(`the dashboard cannot listen on ${host}:${port}: ${cause.message}`, {
            code: 'OUTBOX_CLI_LISTEN',
            cause,
          }),
        ),
      )
      server.listen(port, host, resolve)
    })
    const bound = server.address()
    const at = typeof bound === 'object' && bound !== null ? bound.port : port
    logger.info(
      { url: `http://${host.includes(':') ? `[${host}]` : host}:${at}/`, readOnly: config.token === undefined },
      'the dashboard is there',
    )
    if (!signal.aborted) await once(signal, 'abort')
    server.closeAllConnections()
    await new Promise((resolve) => server.close(resolve))
    signal.throwIfAborted()
  }),
}

const STATES: ReadonlySet<string> = new Set<EventState>(['ready', 'delayed', 'claimed', 'suspect', 'dead', 'done'])

function stateOf(option: unknown): EventState | undefined {
  const state = text(option)
  if (state === undefined || STATES.has(state)) return state as EventState | undefined
  throw usage(`--state ${state}: expected one of ${[...STATES].join(', ')}`)
}

function chosen(options: Context['options']): DeadLetterChoice {
  const olderThan = text(options['olderThan'])
  const choice: DeadLetterChoice = {
    ids: text(options['ids'])
      ?.split(',')
      .map((id) => idOf(id, '--ids')),
    type: text(options['type']),
    reason: text(options['reason']),
    olderThanMs: olderThan === undefined ? undefined : parseDuration(olderThan, '--older-than'),
    ...(options['all'] === true ? { all: true } : {}),
  }
  if (Object.values(choice).every((value) => value === undefined))
    throw usage('which dead letters? Give --ids, --type, --reason, --older-than or --all')
  return choice
}

function daysOf(option: unknown, name: string): number | undefined {
  if (option === 'off') return undefined
  const given = text(option) ?? ''
  const [, days] = /^(\d{1,4})d$/.exec(given) ?? []
  if (days === undefined) throw usage(`${name} ${given}: expected days such as 7d, or off`)
  return Number(days)
}

function idOf(value: unknown, name: string): bigint {
  const given = (text(value) ?? '').trim()
  if (!/^\d{1,18}$/.test(given)) throw usage(`${name} ${given}: expected a number`)
  return BigInt(given)
}

function text(option: unknown): string | undefined {
  return typeof option === 'string' ? option : undefined
}

function usage(message: string): ConfigError {
  return new ConfigError(message, { code: 'CLI_USAGE' })
}

function describeStats({ types, workers, consumers, table, horizon }: OutboxStats): string {
  const age = (ms: number | undefined): string => (ms === undefined ? '' : formatDuration(ms / 1000))
  const parts = [
    types.length === 0
      ? 'no events, and nobody who waits for any'
      : formatTable([
          ['type', 'ready', 'delayed', 'claimed', 'suspect', 'retrying', 'blocked keys', 'dead letters', 'oldest', 'workers', ''],
          ...types.map((type) => [
            type.type,
            ...[type.ready, type.delayed, type.claimed, type.suspect, type.retrying, type.blockedKeys, type.deadLetters].map(
              formatCount,
            ),
            age(type.oldestMs),
            String(type.workers),
            type.paused ? 'paused' : type.workers === 0 && type.ready > 0 ? 'parked: no worker knows it' : '',
          ]),
        ]),
    workers.length === 0
      ? 'no worker'
      : formatTable([
          ['worker', 'name', '', 'known by', 'claimed', 'since', 'types'],
          ...workers.map((worker) => [
            String(worker.id),
            worker.name,
            worker.alive ? (worker.idle ? 'idle' : 'busy') : 'dead',
            worker.presence,
            formatCount(worker.claimed),
            worker.startedAt.toISOString(),
            worker.types.join(' '),
          ]),
        ]),
    ...(consumers.length === 0
      ? []
      : [
          formatTable([
            ['consumer of the log', 'events behind', 'oldest', 'attempts', 'error'],
            ...consumers.map(({ name, lagEvents, lagSeconds, attempts, lastError }) => [
              name,
              formatCount(lagEvents),
              lagEvents === 0 ? '' : formatDuration(lagSeconds),
              String(attempts),
              firstLine(lastError),
            ]),
          ]),
        ]),
    `${formatCount(table.deadTuples)} rows of the table of events are gone and not vacuumed yet`,
  ]
  if (horizon !== undefined && (horizon.ageMs ?? 0) > 60_000)
    parts.push(
      `the ${horizon.holder} "${horizon.name}"${horizon.pid === undefined ? '' : ` (pid ${horizon.pid})`} has held an old snapshot for ${age(horizon.ageMs)}`,
    )
  return parts.join('\n\n')
}

function describeEvent(event: EventDetails): string {
  const rows = Object.entries(event).flatMap(([name, value]: [string, unknown]) => {
    if (value === undefined) return []
    const plain = value instanceof Date ? value.toISOString() : value
    const shown = typeof plain === 'string' || typeof plain === 'bigint' ? `${plain}` : JSON.stringify(plain)
    return [[name, shown]]
  })
  return formatTable(rows)
}

function firstLine(message: string | undefined): string {
  const [line = ''] = (message ?? '').split('\n')
  return line.length > 80 ? `${line.slice(0, 79)}…` : line
}
