import { spawnSync } from 'node:child_process'
import { describeWith, prometheusBinaries } from '@common-handlers/testkit'
import { expect, it } from 'vitest'
import { Outbox, OutboxAdmin, OutboxMetrics, type SpanContextLike, type SpanOptionsLike, type TracerLike } from '../src/index.ts'
import { ownOutbox, until } from './own-outbox.ts'

interface Span {
  readonly name: string
  readonly options: SpanOptionsLike
  readonly parent: Span | undefined
  readonly context: SpanContextLike
  readonly attributes: Record<string, unknown>
  status: number | undefined
  ended: boolean
}

describeWith(['postgres'], 'what an outbox tells', ({ postgres }) => {
  const own = ownOutbox(postgres)
  const outbox = new Outbox()
  const empty = async (): Promise<boolean> => (await own.one<number>('SELECT count(*)::int FROM outbox.event')) === 0

  it('counts what its workers do, by type and outcome, in the format of Prometheus', async () => {
    const worker = own.worker({
      backoffBaseMs: 1,
      maxAttempts: 2,
      handlers: {
        fine: () => undefined,
        'says "no"\\': () => {
          throw new Error('no')
        },
        quick: { effect: 'tx', handler: () => undefined },
        told: { effect: 'log', consumer: 'projection', handler: () => undefined },
        slow: {
          needsDb: true,
          handler: async (_, { getRepository }) => {
            await using repository = await getRepository()
            await repository.query('SELECT pg_sleep(0.03)')
          },
        },
      },
    })
    const metrics = new OutboxMetrics({ workers: [worker], outbox: { pool: own.pool }, refreshMs: 0 })
    await outbox.enqueueMany(own.pool, [
      ...Array.from({ length: 7 }, (_, n) => ({ type: 'fine', payload: n })),
      { type: 'says "no"\\', payload: 1 },
      { type: 'quick', payload: 1 },
      { type: 'slow', payload: 1 },
      { type: 'unknown', payload: 1, key: 'k' },
      { type: 'unknown', payload: 2, key: 'k' },
    ])
    await outbox.append(own.pool, { type: 'told', payload: 1 })
    await worker.start()
    await until(async () => (await own.one<number>('SELECT count(*)::int FROM outbox.event')) === 2)
    await until(async () => (await metrics.render()).includes('outbox_handler_duration_seconds_count{type="told"} 1'))
    await until(async () => (await metrics.render()).includes('lag_events{consumer="projection"} 0'))
    await until(async () => (await metrics.render()).includes('outcome="dead"'))
    await new OutboxAdmin({ pool: own.pool }).pause('later')
    const page = await metrics.render()
    const lines = page.split('\n')
    for (const line of [
      'outbox_events_settled_total{type="fine",outcome="done"} 7',
      'outbox_events_settled_total{type="says \\"no\\"\\\\",outcome="retry"} 1',
      'outbox_events_settled_total{type="says \\"no\\"\\\\",outcome="dead"} 1',
      'outbox_handler_duration_seconds_count{type="quick"} 1',
      'outbox_handler_duration_seconds_count{type="slow"} 1',
      'outbox_handler_duration_seconds_bucket{type="slow",le="0.025"} 0',
      'outbox_handler_duration_seconds_bucket{type="slow",le="+Inf"} 1',
      'outbox_handler_connection_wait_seconds_count{type="slow"} 1',
      'outbox_workers_rescued_total 0',
      'outbox_handlers_running 0',
      'outbox_up 1',
      'outbox_events{type="unknown",state="ready"} 2',
      'outbox_blocked_keys{type="unknown"} 1',
      'outbox_type_workers{type="unknown"} 0',
      'outbox_type_workers{type="fine"} 1',
      'outbox_dead_letters{type="says \\"no\\"\\\\"} 1',
      'outbox_type_paused{type="later"} 1',
      'outbox_workers{presence="session"} 1',
      'outbox_log_lag_events{consumer="projection"} 0',
    ])
      expect(lines).toContain(line)
    const { promtool } = await prometheusBinaries()
    const checked = spawnSync(promtool, ['check', 'metrics'], { input: page, encoding: 'utf8' })
    expect(checked.stdout + checked.stderr).toBe('')
    expect(checked.status).toBe(0)
  })

  it('says that the database does not answer, and counts on', async () => {
    const worker = own.worker({ handlers: { a: () => undefined } })
    const pool = { connect: () => Promise.reject(new Error('nobody there')) }
    const page = await new OutboxMetrics({ workers: [worker], outbox: { pool } }).render()
    expect(page).toContain('outbox_up 0\n')
    expect(page).toContain('outbox_worker_errors_total 0\n')
  })

  it('makes a span for each attempt, linked to that of the producer', async () => {
    const spans: Span[] = []
    const active: Span[] = []
    const tracer: TracerLike = {
      startActiveSpan(name, options, work) {
        const id = (spans.length + 1).toString(16).padStart(16, '0')
        const context = { traceId: id.repeat(2), spanId: id, traceFlags: 1 }
        const span: Span = { name, options, parent: active.at(-1), context, attributes: {}, status: undefined, ended: false }
        spans.push(span)
        active.push(span)
        const done = work({
          spanContext: () => context,
          setAttribute: (key, value) => (span.attributes[key] = value),
          setStatus: ({ code }) => (span.status = code),
          end: () => (span.ended = true),
        })
        active.pop()
        return done
      },
    }
    const during: (string | undefined)[] = []
    const worker = own.worker({
      tracer,
      backoffBaseMs: 1,
      handlers: {
        a: (payload: number) => {
          during.push(active.at(-1)?.name)
          if (payload === 1 && during.length === 1) throw new Error('once')
        },
        b: { effect: 'tx', handler: () => undefined },
      },
    })
    const traced = new Outbox({ tracer })
    const [id] = await traced.enqueueMany(own.pool, [{ type: 'a', payload: 1 }])
    const own1 = `00-${'ab'.repeat(16)}-${'cd'.repeat(8)}-01`
    await traced.enqueueMany(own.pool, [
      { type: 'b', payload: 2, headers: { traceparent: own1 } },
      { type: 'a', payload: 3, headers: { other: 'kept' } },
    ])
    await outbox.enqueue(own.pool, { type: 'b', payload: 4, headers: { traceparent: 'nonsense' } })
    expect(spans.map(({ name, ended }) => [name, ended])).toEqual([
      ['send a', true],
      ['send', true],
    ])
    expect(await own.one(`SELECT headers FROM outbox.event WHERE payload::text = '3'`)).toEqual({
      traceparent: `00-${spans[1]?.context.traceId}-${spans[1]?.context.spanId}-01`,
      other: 'kept',
    })
    await worker.start()
    await until(empty)
    await until(() => spans.every(({ ended }) => ended))
    const attempts = spans.filter(({ name }) => name === 'process a')
    expect(during).toEqual(['process a', 'process a', 'process a'])
    expect(attempts.map(({ attributes, status }) => `${String(attributes['outbox.outcome'])} ${status}`).toSorted()).toEqual([
      'done undefined',
      'done undefined',
      'retry 2',
    ])
    const ofFirst = attempts.filter(({ options }) => options.attributes?.['messaging.message.id'] === String(id))
    expect(
      ofFirst.map(({ options }) => [options.kind, options.attributes?.['outbox.attempt'], options.links?.[0]?.context.spanId]),
    ).toEqual([
      [4, 1, spans[0]?.context.spanId],
      [4, 2, spans[0]?.context.spanId],
    ])
    const tx = spans.filter(({ name }) => name === 'process b')
    expect(tx.map(({ options }) => options.links)).toEqual([
      [{ context: { traceId: 'ab'.repeat(16), spanId: 'cd'.repeat(8), traceFlags: 1, isRemote: true } }],
      [],
    ])
  })
})
