import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { ConfigError, type Logger } from '@common-handlers/core'
import type { Registry } from 'prom-client'
import type { Progress, ProgressState } from './progress.ts'

/** How a run of a command ended. */
export type RunOutcome = 'ok' | 'failed' | 'interrupted'

/** What a program tells of itself to Prometheus and to health probes. */
export interface Telemetry {
  runBegan(): void
  runEnded(outcome: RunOutcome): void
  /** The same progress, counted as `common_handlers_rows_total` and `common_handlers_bytes_total`. */
  observe(progress: Progress): Progress
  /** More for `/metrics` until the next run begins, as Prometheus text; asked for each time. */
  addMetrics(source: () => Promise<string>): void
  /** Serves `/metrics` and `/healthz` until it is disposed of. @throws ConfigError `CLI_LISTEN` */
  listen(address: string): Promise<AsyncDisposable & { readonly url: string }>
  /** Sends the metrics to a Prometheus Pushgateway: for a program that ends before anybody asks it. */
  push(url: string): Promise<void>
}

/** Loads the Prometheus client, which a program that tells nothing does not need. */
export async function createTelemetry(app: string, command: string, logger: Logger): Promise<Telemetry> {
  const { collectDefaultMetrics, Counter, Gauge, Histogram, Pushgateway, Registry } = await import('prom-client')
  const registry = new Registry()
  const labels = { app, command }
  registry.setDefaultLabels(labels)
  collectDefaultMetrics({ register: registry })
  const registers = [registry]
  const prefix = 'common_handlers'
  const runs = new Counter({ name: `${prefix}_runs_total`, help: 'Runs that ended', labelNames: ['outcome'], registers })
  const rows = new Counter({ name: `${prefix}_rows_total`, help: 'Rows moved, of unfinished runs too', registers })
  const bytes = new Counter({ name: `${prefix}_bytes_total`, help: 'Bytes written or read, of unfinished runs too', registers })
  const running = new Gauge({ name: `${prefix}_running`, help: '1 while a run is under way', registers })
  const lastEnd = new Gauge({ name: `${prefix}_last_run_timestamp_seconds`, help: 'When a run last ended', registers })
  const lastSuccess = new Gauge({
    name: `${prefix}_last_success_timestamp_seconds`,
    help: 'When a run last ended well',
    registers,
  })
  const duration = new Histogram({
    name: `${prefix}_run_duration_seconds`,
    help: 'How long runs took',
    buckets: [1, 5, 15, 60, 300, 900, 3600, 14_400],
    registers,
  })
  for (const outcome of ['ok', 'failed', 'interrupted']) runs.inc({ outcome }, 0)

  const sources: (() => Promise<string>)[] = []
  let began: number | undefined
  let last: { readonly outcome: RunOutcome; readonly endedAt: Date; readonly seconds: number } | undefined
  const health = (): { readonly healthy: boolean; readonly body: unknown } => ({
    healthy: last === undefined || last.outcome === 'ok',
    body: { app, command, running: began !== undefined, lastRun: last ?? null },
  })
  return {
    runBegan() {
      began = performance.now()
      sources.length = 0
      running.set(1)
    },
    runEnded(outcome) {
      const seconds = (performance.now() - (began ?? performance.now())) / 1000
      began = undefined
      last = { outcome, endedAt: new Date(), seconds }
      running.set(0)
      runs.inc({ outcome })
      duration.observe(seconds)
      lastEnd.setToCurrentTime()
      if (outcome === 'ok') lastSuccess.setToCurrentTime()
    },
    observe: (progress) => counting(progress, rows, bytes),
    addMetrics: (source) => void sources.push(source),
    listen: (address) => serve(address, registry, sources, health, logger),
    async push(url) {
      try {
        await new Pushgateway(url, { timeout: 5_000 }, registry).pushAdd({ jobName: app, groupings: { command } })
      } catch (error) {
        // What was done is done; that nobody was told is no reason to fail.
        logger.warn({ error, url }, 'the metrics could not be pushed')
      }
    },
  }
}

interface Counting {
  inc(value: number): void
}

/** A progress counts from zero for each piece of work; the counters go on. */
function counting(progress: Progress, rows: Counting, bytes: Counting): Progress {
  let seen: ProgressState = {}
  const more = (now: number | undefined, before: number | undefined): number =>
    now === undefined ? 0 : Math.max(0, now >= (before ?? 0) ? now - (before ?? 0) : now)
  return {
    update(state) {
      rows.inc(more(state.rows, seen.rows))
      bytes.inc(more(state.bytes, seen.bytes))
      seen = { rows: state.rows ?? seen.rows, bytes: state.bytes ?? seen.bytes }
      progress.update(state)
    },
    end: () => progress.end(),
  }
}

/** `:9464` is every interface, `127.0.0.1:9464` one. */
export function parseListenAddress(address: string): { readonly host: string | undefined; readonly port: number } {
  const [, bracketed, plain, port] = /^(?:\[([^\]]+)\]|([^:]*)):(\d{1,5})$/.exec(address) ?? []
  if (port === undefined || Number(port) > 65_535) {
    throw new ConfigError(`--listen ${address}: expected :9464 or 127.0.0.1:9464`, { code: 'CLI_USAGE' })
  }
  const host = bracketed ?? plain
  return { host: host === '' ? undefined : host, port: Number(port) }
}

async function serve(
  address: string,
  registry: Registry,
  sources: readonly (() => Promise<string>)[],
  health: () => { readonly healthy: boolean; readonly body: unknown },
  logger: Logger,
): Promise<AsyncDisposable & { readonly url: string }> {
  const { host, port } = parseListenAddress(address)
  const server = createServer((request, response) => {
    if (request.url === '/metrics') {
      Promise.all([registry.metrics(), ...sources.map((source) => source())]).then(
        (texts) => response.setHeader('content-type', registry.contentType).end(texts.join('')),
        () => response.writeHead(500).end(),
      )
    } else if (request.url === '/healthz') {
      const { healthy, body } = health()
      response.writeHead(healthy ? 200 : 503, { 'content-type': 'application/json' }).end(`${JSON.stringify(body)}\n`)
    } else response.writeHead(404).end()
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) =>
      reject(new ConfigError(`--listen ${address}: ${cause.message}`, { code: 'CLI_LISTEN', cause })),
    )
    server.listen(port, host, resolve)
  })
  const bound = server.address() as AddressInfo
  const url = `http://${bound.family === 'IPv6' ? `[${bound.address}]` : bound.address}:${bound.port}`
  logger.info({ url }, 'serving /metrics and /healthz')
  return {
    url,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

/** What `/healthz` of the program at the address says: for a health probe in its own container. */
export async function askHealth(
  address: string,
  signal: AbortSignal,
): Promise<{ readonly healthy: boolean; readonly text: string }> {
  const { host, port } = parseListenAddress(address)
  const name = host === undefined || host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host
  const url = `http://${name.includes(':') ? `[${name}]` : name}:${port}/healthz`
  try {
    const response = await fetch(url, { signal: AbortSignal.any([signal, AbortSignal.timeout(3_000)]) })
    return { healthy: response.ok, text: (await response.text()).trim() }
  } catch (error) {
    return { healthy: false, text: `${url} does not answer: ${(error as Error).message}` }
  }
}
