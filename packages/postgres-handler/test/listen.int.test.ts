import { describeWith, startFaultProxy } from '@common-handlers/testkit'
import { expect, it } from 'vitest'
import { type ListenEvent, PostgresHandler } from '../src/index.ts'
import { failure, ownDatabase } from './own-database.ts'

describeWith(['postgres'], 'listening', ({ postgres }) => {
  const db = ownDatabase(postgres)
  const notify = (channel: string, payload: string) => db.pg.execute('SELECT pg_notify($1, $2)', [channel, payload])
  const start = (events: AsyncIterable<ListenEvent>) => {
    const iterator = events[Symbol.asyncIterator]()
    return { next: async () => (await iterator.next()).value as ListenEvent, leave: () => iterator.return?.() }
  }

  it('gives what is notified on its channels, in order, and nothing after it is left', async () => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 1 } }))
    const { next, leave } = start(pg.listen(['orders', 'Mixed "case"']))
    expect(await next()).toEqual({ kind: 'listening', gap: false })
    await notify('orders', '1')
    await notify('others', 'x')
    await notify('Mixed "case"', '')
    expect(await next()).toMatchObject({ kind: 'notification', channel: 'orders', payload: '1' })
    expect(await next()).toMatchObject({ kind: 'notification', channel: 'Mixed "case"', payload: '' })
    await leave()
    // The one connection is free again, and hears nothing.
    expect(await pg.getRows('SELECT count(*)::int FROM pg_listening_channels()')).toEqual([[0]])
  })

  it('goes on when its connection is lost, and tells the gap', async () => {
    await using proxy = await startFaultProxy(db.address)
    await using pg = new PostgresHandler(db.options({ host: '127.0.0.1', port: proxy.port }))
    const { next, leave } = start(pg.listen('news'))
    expect(await next()).toEqual({ kind: 'listening', gap: false })
    await notify('news', 'before')
    expect(await next()).toMatchObject({ payload: 'before' })
    await proxy.refuse()
    proxy.cut()
    const waiting = next()
    await notify('news', 'missed')
    await new Promise((resolve) => setTimeout(resolve, 300))
    await proxy.accept()
    expect(await waiting).toEqual({ kind: 'listening', gap: true })
    await notify('news', 'after')
    expect(await next()).toMatchObject({ payload: 'after' })
    await db.terminateOthers()
    expect(await next()).toEqual({ kind: 'listening', gap: true })
    await leave()
  })

  it('notices a connection that was cut without a word', async () => {
    await using proxy = await startFaultProxy(db.address)
    await using pg = new PostgresHandler(db.options({ host: '127.0.0.1', port: proxy.port }))
    const { next, leave } = start(pg.listen('news', { heartbeatMs: 50 }))
    await next()
    proxy.stall()
    const waiting = next()
    await new Promise((resolve) => setTimeout(resolve, 100))
    // Whatever is under way stays there; the connection is made anew once the heartbeat has found out.
    setTimeout(() => {
      proxy.cut()
      proxy.resume()
    }, 500)
    expect(await waiting).toEqual({ kind: 'listening', gap: true })
    await leave()
  })

  it('does not keep more than it may while the loop is busy, and tells the gap', async () => {
    const { next, leave } = start(db.pg.listen('many', { maxWaiting: 10 }))
    await next()
    await db.pg.execute(`SELECT pg_notify('many', n::text) FROM generate_series(1, 100) AS n`)
    await notify('many', 'last')
    const events: ListenEvent[] = []
    do events.push(await next())
    while (events.at(-1)?.kind === 'notification')
    expect(events.length).toBe(11)
    expect(events.at(-1)).toEqual({ kind: 'listening', gap: true })
    await leave()
  })

  it('ends with its signal, with close(), and with a refusal that is for good', async () => {
    const abort = new AbortController()
    const aborted = start(db.pg.listen('news', { signal: abort.signal }))
    await aborted.next()
    setTimeout(() => abort.abort(new Error('stop')), 20)
    expect((await failure(aborted.next())).message).toBe('stop')
    const pg = new PostgresHandler(db.options())
    const closed = start(pg.listen('news'))
    await closed.next()
    const ending = failure(closed.next())
    await pg.close({ graceMs: 50 })
    expect(await ending).toMatchObject({ code: 'POSTGRES_CLOSED' })
    await using refused = new PostgresHandler(db.options({ password: 'wrong' }))
    expect(await failure(start(refused.listen('news')).next())).toMatchObject({ code: 'POSTGRES_LOGIN_REFUSED' })
    expect(await db.activeBackends()).toBe(0)
  })
})
