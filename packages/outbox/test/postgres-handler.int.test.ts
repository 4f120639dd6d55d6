import { randomBytes } from 'node:crypto'
import { EventEmitter } from 'node:events'
import { PostgresHandler } from '@common-handlers/postgres-handler'
import { describeWith } from '@common-handlers/testkit'
import { expect, it } from 'vitest'
import { type DatabaseContext, Outbox } from '../src/index.ts'
import { ownOutbox, until } from './own-outbox.ts'

/** Users that come and go, as the database secrets of a vault do. */
class Users extends EventEmitter {
  readonly #make: () => Promise<{ readonly user: string; readonly password: string }>
  #now: Promise<{ readonly user: string; readonly password: string }> | undefined

  constructor(make: () => Promise<{ readonly user: string; readonly password: string }>) {
    super()
    this.#make = make
  }

  async acquire(): Promise<{ readonly user: string; readonly password: string; readonly expiresAt: number; release(): void }> {
    return { ...(await (this.#now ??= this.#make())), expiresAt: Infinity, release: () => undefined }
  }

  rotate(): void {
    this.#now = undefined
    this.emit('rotated')
  }
}

describeWith(['postgres'], 'a worker on a PostgresHandler', ({ postgres }) => {
  const own = ownOutbox(postgres)

  it('goes on when user and password change, and the sessions of the former user are ended', async () => {
    const made: string[] = []
    const users = new Users(async () => {
      const [user, password] = [`worker_${randomBytes(4).toString('hex')}`, randomBytes(8).toString('hex')]
      await own.pool.query(`CREATE ROLE ${user} LOGIN SUPERUSER PASSWORD '${password}'`)
      made.push(user)
      return { user, password }
    })
    await own.pool.query('CREATE TABLE written (n int PRIMARY KEY)')
    const { host, port, database } = own.address
    const handler = new PostgresHandler({ host, port, database, credentials: users })
    const outbox = new Outbox()
    const write = async (n: number, { getRepository }: DatabaseContext): Promise<void> => {
      await using repository = await getRepository()
      await repository.query('INSERT INTO written VALUES ($1)', [n])
    }
    const worker = own.worker({
      pool: handler.asPool(),
      handlers: { tx: { effect: 'tx', needsDb: true, handler: write }, lease: { needsDb: true, handler: write } },
      backoffBaseMs: 20,
    })
    worker.on('trouble', () => undefined)
    await worker.start()
    const count = 300
    for (let n = 0; n < count; n++) {
      await outbox.enqueue(own.pool, { type: n % 2 === 0 ? 'tx' : 'lease', payload: n })
      if (n % 100 !== 99) continue
      const former = made.at(-1)
      users.rotate()
      // Somebody logs in, as the new user.
      await until(async () => {
        await handler.transaction((transaction) => transaction.getRows('SELECT 1')).catch(() => undefined)
        return made.at(-1) !== former
      })
      await own.pool.query('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1', [former])
    }
    await until(async () => (await own.one<number>('SELECT count(*)::int FROM outbox.event')) === 0)
    expect(made.length).toBe(4)
    expect(await own.one('SELECT count(*)::int FROM written')).toBe(count)
    expect(await own.one('SELECT count(*)::int FROM outbox.dead_letter')).toBe(0)
    await worker.stop()
    await handler.close()
    for (const user of made) await own.pool.query(`DROP OWNED BY ${user}; DROP ROLE ${user}`)
  })
})
