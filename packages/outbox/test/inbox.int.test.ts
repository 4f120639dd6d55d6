import { describeWith } from '@common-handlers/testkit'
import { beforeAll, beforeEach, expect, it } from 'vitest'
import { type EnqueueInto, Inbox, type Processed } from '../src/index.ts'
import { ownOutbox, until, WAITING } from './own-outbox.ts'

describeWith(['postgres'], 'the inbox', ({ postgres }) => {
  const own = ownOutbox(postgres)
  const inbox = new Inbox({ consumer: 'billing' })

  beforeAll(() => own.pool.query('CREATE TABLE effect (message text)'))
  beforeEach(() => own.pool.query('TRUNCATE effect, outbox.inbox'))

  /** Gives control over the end of the transaction. */
  const receive = async (message: string, end: 'COMMIT' | 'ROLLBACK' = 'COMMIT', meanwhile?: Promise<void>) => {
    const client = await own.connect()
    try {
      await client.query('BEGIN')
      const processed = await inbox.processOnce(client, message, async () => {
        await client.query('INSERT INTO effect VALUES ($1)', [message])
        return 'done'
      })
      await meanwhile
      await client.query(end)
      return processed
    } finally {
      client.release()
    }
  }

  it('processes a message once, and tells a duplicate when that was', async () => {
    expect(await receive('m 1')).toEqual({ duplicate: false, value: 'done' })
    const second = await receive('m 1')
    expect(second).toEqual({ duplicate: true, processedAt: expect.any(Date) })
    if (second.duplicate) expect(Math.abs(second.processedAt.getTime() - Date.now())).toBeLessThan(60_000)
    expect(await receive('m 2')).toEqual({ duplicate: false, value: 'done' })
    const client = await own.connect()
    await client.query('BEGIN')
    const other = await new Inbox({ consumer: 'shipping' }).processOnce(client, 'm 1', () => 7)
    await client.query('COMMIT')
    client.release()
    expect(other).toEqual({ duplicate: false, value: 7 })
    expect(await own.one('SELECT count(*)::int FROM effect')).toBe(2)
  })

  it.each(['COMMIT', 'ROLLBACK'] as const)('lets the second of two wait for the %s of the first', async (end) => {
    const gate = Promise.withResolvers<void>()
    const first = receive('m', end, gate.promise)
    await until(
      async () => (await own.one<number>('SELECT count(*)::int FROM pg_locks WHERE relation = $1::regclass', ['effect'])) > 0,
    )
    let ended = false
    const second = receive('m').finally(() => (ended = true))
    await until(async () => (await own.one<number>(WAITING)) > 0)
    expect(ended).toBe(false)
    gate.resolve()
    await first
    expect((await second).duplicate).toBe(end === 'COMMIT')
    expect(await own.one('SELECT count(*)::int FROM effect')).toBe(1)
  })

  it('does one of many that come at once', async () => {
    const all: Processed<string>[] = await Promise.all(Array.from({ length: 20 }, () => receive('m')))
    expect(all.filter(({ duplicate }) => !duplicate)).toHaveLength(1)
    expect(await own.one('SELECT count(*)::int FROM effect')).toBe(1)
  })

  it('leaves no note when the work fails', async () => {
    const client = await own.connect()
    await client.query('BEGIN')
    await expect(inbox.processOnce(client, 'm', () => Promise.reject(new Error('no')))).rejects.toThrow('no')
    await client.query('ROLLBACK')
    client.release()
    expect(await receive('m')).toMatchObject({ duplicate: false })
  })

  it('refuses to work outside of a transaction, and leaves no note', async () => {
    const work = (): void => expect.unreachable()
    await expect(inbox.processOnce(own.pool, 'm', work)).rejects.toMatchObject({ code: 'OUTBOX_NO_TRANSACTION' })
    expect(await own.one('SELECT count(*)::int FROM outbox.inbox')).toBe(0)
  })

  it('takes connections that give rows as arrays', async () => {
    const client = await own.connect()
    const transaction: EnqueueInto = {
      getRows: async (text, values) =>
        (await client.query<unknown[]>({ text, values: [...(values ?? [])], rowMode: 'array' })).rows,
    }
    await client.query('BEGIN')
    expect(await inbox.processOnce(transaction, 'm', () => 1)).toEqual({ duplicate: false, value: 1 })
    expect(await inbox.processOnce(transaction, 'm', () => 2)).toMatchObject({ duplicate: true })
    await client.query('COMMIT')
    client.release()
  })

  it('forgets a message when its time has passed', async () => {
    await receive('old')
    await receive('young')
    await own.pool.query(`UPDATE outbox.inbox SET expires_at = clock_timestamp() WHERE message_id = 'old'`)
    expect(await receive('old')).toMatchObject({ duplicate: false })
    await own.pool.query(`UPDATE outbox.inbox SET expires_at = clock_timestamp() WHERE message_id = 'old'`)
    expect(await inbox.sweep(own.pool)).toBe(1)
    expect(await own.one('SELECT message_id FROM outbox.inbox')).toBe('young')
  })
})
