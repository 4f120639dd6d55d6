import { OutboxAdmin, type OutboxAdminOptions } from './admin.ts'
import type { OutboxWorker } from './worker.ts'

/** Seconds. */
const BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]

export interface OutboxMetricsOptions {
  /** Workers of this process, to count what they do. */
  readonly workers?: readonly OutboxWorker[] | undefined
  /** The outbox, to tell what is in it. Not needed in each process: all would tell the same. */
  readonly outbox?: OutboxAdminOptions | undefined
  /** What is in the outbox is counted at most so often. Default 10 000. */
  readonly refreshMs?: number | undefined
}

/**
 * What workers do and what is in the outbox, for Prometheus.
 *
 * @example
 * const metrics = new OutboxMetrics({ workers: [worker], outbox: { pool } })
 * createServer(async (_, response) => response.setHeader('content-type', metrics.contentType).end(await metrics.render()))
 */
export class OutboxMetrics {
  /** The text format of Prometheus, https://prometheus.io/docs/instrumenting/exposition_formats/. */
  readonly contentType = 'text/plain; version=0.0.4; charset=utf-8'
  readonly #workers: OutboxWorker[] = []
  readonly #admin: OutboxAdmin | undefined
  readonly #refreshMs: number
  #gauges: { readonly at: number; readonly samples: Promise<Family[]> } | undefined
  readonly #settled = new Counter('outbox_events_settled_total', 'Attempts that ended, and how', ['type', 'outcome'])
  readonly #duration = new Histogram('outbox_handler_duration_seconds', 'How long handlers ran')
  readonly #waits = new Histogram('outbox_handler_connection_wait_seconds', 'How long handlers waited for their connections')
  readonly #holds = new Counter(
    'outbox_handler_connection_holds_total',
    'Connections of the pool that handlers held for too long',
    ['type'],
  )
  readonly #exhausted = new Counter(
    'outbox_handler_pool_exhausted_total',
    'Handlers that had to wait since the pool was exhausted',
    ['type'],
  )
  readonly #forgotten = new Counter('outbox_repositories_forgotten_total', 'Repositories that handlers did not close', ['type'])
  readonly #rescued = new Counter('outbox_workers_rescued_total', 'Workers that were found dead by those of this process', [])
  readonly #lost = new Counter('outbox_worker_losses_total', 'Times that a worker of this process was taken for dead', [])
  readonly #trouble = new Counter('outbox_worker_errors_total', 'Errors of workers themselves, tried again', [])

  constructor(options: OutboxMetricsOptions) {
    this.#admin = options.outbox === undefined ? undefined : new OutboxAdmin(options.outbox)
    this.#refreshMs = options.refreshMs ?? 10_000
    for (const counter of [this.#rescued, this.#lost, this.#trouble]) counter.add(0)
    for (const worker of options.workers ?? []) this.observe(worker)
  }

  /** Counts what this worker does from now on. */
  observe(worker: OutboxWorker): void {
    this.#workers.push(worker)
    worker.on('settled', ({ type, outcome, durationMs }) => {
      this.#settled.add(1, type, outcome)
      if (durationMs !== undefined) this.#duration.observe(type, durationMs / 1000)
    })
    worker.on('connected', ({ type, waitedMs }) => this.#waits.observe(type, waitedMs / 1000))
    worker.on('held', ({ type }) => this.#holds.add(1, type))
    worker.on('exhausted', ({ type }) => this.#exhausted.add(1, type))
    worker.on('forgotten', ({ type, repositories }) => this.#forgotten.add(repositories, type))
    worker.on('rescued', ({ workers }) => this.#rescued.add(workers))
    worker.on('lost', () => this.#lost.add(1))
    worker.on('trouble', () => this.#trouble.add(1))
  }

  /** The page for Prometheus. Never rejects: where the database does not answer, `outbox_up` is 0. */
  async render(): Promise<string> {
    const counters = [this.#settled, this.#holds, this.#exhausted, this.#forgotten, this.#rescued, this.#lost, this.#trouble]
    const families: Family[] = [
      ...(this.#workers.length === 0
        ? []
        : [...counters, this.#duration, this.#waits].map((metric) => metric.family()).concat(this.#running())),
      ...(await this.#stats()),
    ]
    const lines = families
      .filter(({ samples }) => samples.length > 0)
      .flatMap(({ name, type, help, samples }) => [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...samples])
    return lines.length === 0 ? '' : `${lines.join('\n')}\n`
  }

  #running(): Family[] {
    const all = this.#workers.map(({ status }) => status)
    const sum = (of: (status: (typeof all)[number]) => number): number => all.reduce((total, status) => total + of(status), 0)
    return [
      gauge('outbox_handlers_running', 'Handlers that run now', [['', sum(({ running }) => running)]]),
      gauge('outbox_handler_connections', 'Connections of the pool that handlers hold, and handlers that wait for one', [
        [labels({ state: 'held' }), sum(({ handlerConnections }) => handlerConnections.inUse)],
        [labels({ state: 'awaited' }), sum(({ handlerConnections }) => handlerConnections.waiting)],
      ]),
    ]
  }

  async #stats(): Promise<Family[]> {
    const admin = this.#admin
    if (admin === undefined) return []
    const now = performance.now()
    if (this.#gauges === undefined || now - this.#gauges.at > this.#refreshMs)
      this.#gauges = { at: now, samples: readGauges(admin).catch(() => [up(0)]) }
    return await this.#gauges.samples
  }
}

const up = (value: number): Family => gauge('outbox_up', 'Whether the database said what is in the outbox', [['', value]])

async function readGauges(admin: OutboxAdmin): Promise<Family[]> {
  const { types, workers, consumers, table, horizon } = await admin.stats()
  const states = ['ready', 'delayed', 'claimed', 'suspect'] as const
  const ofTypes = (value: (type: (typeof types)[number]) => number | undefined): Sample[] =>
    types.flatMap((type) => {
      const found = value(type)
      return found === undefined ? [] : [[labels({ type: type.type }), found] as const]
    })
  const alive = workers.filter((worker) => worker.alive)
  return [
    up(1),
    gauge(
      'outbox_events',
      'Events in the outbox',
      types.flatMap((type) => states.map((state) => [labels({ type: type.type, state }), type[state]] as const)),
    ),
    gauge(
      'outbox_events_retrying',
      'Events in the outbox that failed at least once',
      ofTypes(({ retrying }) => retrying),
    ),
    gauge(
      'outbox_oldest_event_age_seconds',
      'Time since the oldest event that is due or was tried was enqueued',
      ofTypes(({ oldestMs }) => (oldestMs ?? 0) / 1000),
    ),
    gauge(
      'outbox_blocked_keys',
      'Keys whose first event bars others',
      ofTypes(({ blockedKeys }) => blockedKeys),
    ),
    gauge(
      'outbox_dead_letters',
      'Events that nobody tries again by itself',
      ofTypes(({ deadLetters }) => deadLetters),
    ),
    gauge(
      'outbox_type_paused',
      '1 for a type that is paused',
      ofTypes(({ paused }) => Number(paused)),
    ),
    gauge(
      'outbox_type_workers',
      'Live workers with a handler for the type; 0: its events are parked',
      ofTypes((type) => type.workers),
    ),
    gauge(
      'outbox_workers',
      'Live workers, by how the others know that they live',
      (['session', 'heartbeat'] as const).map((presence) => [
        labels({ presence }),
        alive.filter((worker) => worker.presence === presence).length,
      ]),
    ),
    gauge(
      'outbox_log_lag_events',
      'Events of the log that a consumer has not had; 100000 stands for that many or more',
      consumers.map(({ name, lagEvents }) => [labels({ consumer: name }), lagEvents]),
    ),
    gauge(
      'outbox_log_lag_seconds',
      'Age of the oldest event of the log that a consumer has not had',
      consumers.map(({ name, lagSeconds }) => [labels({ consumer: name }), lagSeconds]),
    ),
    gauge('outbox_table_dead_tuples', 'Rows of the table of events that are gone and not vacuumed', [['', table.deadTuples]]),
    gauge('outbox_horizon_age_seconds', 'Age of the oldest snapshot that keeps PostgreSQL from vacuuming; 0: there is none', [
      ['', (horizon?.ageMs ?? 0) / 1000],
    ]),
    gauge('outbox_horizon_transactions', 'Transactions that were begun since that snapshot', [['', horizon?.transactions ?? 0]]),
  ]
}

/** Labels as Prometheus writes them, and a value. */
type Sample = readonly [labels: string, value: number]

interface Family {
  readonly name: string
  readonly type: 'counter' | 'gauge' | 'histogram'
  readonly help: string
  readonly samples: readonly string[]
}

function gauge(name: string, help: string, samples: readonly Sample[]): Family {
  return { name, type: 'gauge', help, samples: samples.map(([given, value]) => `${name}${given} ${value}`) }
}

function labels(given: Readonly<Record<string, string>>): string {
  if (Object.keys(given).length === 0) return ''
  return `{${Object.entries(given)
    .map(([name, value]) => `${name}="${value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')}"`)
    .join(',')}}`
}

class Counter {
  readonly #name: string
  readonly #help: string
  readonly #labels: readonly string[]
  readonly #values = new Map<string, number>()

  constructor(name: string, help: string, labelNames: readonly string[]) {
    this.#name = name
    this.#help = help
    this.#labels = labelNames
  }

  /** Values of the labels in their order. */
  add(by: number, ...values: string[]): void {
    const key = values.join('\0')
    this.#values.set(key, (this.#values.get(key) ?? 0) + by)
  }

  family(): Family {
    const samples = [...this.#values].map(([key, value]) => {
      const values = key.split('\0')
      return `${this.#name}${labels(Object.fromEntries(this.#labels.map((label, index) => [label, values[index] ?? ''])))} ${value}`
    })
    return { name: this.#name, type: 'counter', help: this.#help, samples }
  }
}

/** One by type. */
class Histogram {
  readonly #name: string
  readonly #help: string
  readonly #values = new Map<string, { readonly counts: number[]; sum: number; count: number }>()

  constructor(name: string, help: string) {
    this.#name = name
    this.#help = help
  }

  observe(type: string, value: number): void {
    let found = this.#values.get(type)
    if (found === undefined) this.#values.set(type, (found = { counts: BUCKETS.map(() => 0), sum: 0, count: 0 }))
    let bucket = 0
    while (bucket < BUCKETS.length && value > (BUCKETS[bucket] ?? 0)) bucket++
    if (bucket < BUCKETS.length) found.counts[bucket] = (found.counts[bucket] ?? 0) + 1
    found.sum += value
    found.count += 1
  }

  family(): Family {
    const samples = [...this.#values].flatMap(([type, { counts, sum, count }]) => {
      let below = 0
      return [
        ...counts.map((n, index) => `${this.#name}_bucket${labels({ type, le: String(BUCKETS[index]) })} ${(below += n)}`),
        `${this.#name}_bucket${labels({ type, le: '+Inf' })} ${count}`,
        `${this.#name}_sum${labels({ type })} ${sum}`,
        `${this.#name}_count${labels({ type })} ${count}`,
      ]
    })
    return { name: this.#name, type: 'histogram', help: this.#help, samples }
  }
}
