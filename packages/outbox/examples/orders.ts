// An order and its announcement in one commit; a worker that reserves stock exactly once for it, and one call to the outside.
//   POSTGRES_URL=postgres://… node orders.ts
import { migrate, Outbox, OutboxWorker } from '@common-handlers/outbox'
import { PostgresHandler } from '@common-handlers/postgres-handler'

await using postgres = new PostgresHandler({ url: process.env['POSTGRES_URL'] ?? 'postgres://postgres@127.0.0.1:5432/postgres' })
await migrate(postgres.asPool(), { schema: 'orders_outbox' })
await postgres.executeScript(`
  CREATE TABLE IF NOT EXISTS orders (id int PRIMARY KEY);
  CREATE TABLE IF NOT EXISTS stock (item text PRIMARY KEY, reserved int NOT NULL);
  TRUNCATE orders, stock;
  INSERT INTO stock VALUES ('lamp', 0)`)

const outbox = new Outbox({ schema: 'orders_outbox' })
for (const id of [1, 2, 3]) {
  await postgres.transaction(async (transaction) => {
    await transaction.execute('INSERT INTO orders VALUES ($1)', [id])
    await outbox.enqueue(transaction, { type: 'order.created', payload: { id, item: 'lamp' }, key: 'lamp' })
  })
}

const mailed: number[] = []
const done = Promise.withResolvers<void>()
const worker = new OutboxWorker({
  pool: postgres.asPool(),
  schema: 'orders_outbox',
  handlers: {
    'order.created': {
      effect: 'tx',
      needsDb: true,
      handler: async ({ id, item }: { id: number; item: string }, { getRepository }) => {
        await using repository = await getRepository()
        await repository.query('UPDATE stock SET reserved = reserved + 1 WHERE item = $1', [item])
        await repository.enqueue({ type: 'order.confirmed', payload: { id } })
      },
    },
    'order.confirmed': ({ id }: { id: number }) => {
      mailed.push(id)
      if (mailed.length === 3) done.resolve()
    },
  },
})
await worker.start()
await done.promise
await worker.stop()

const [[reserved] = []] = await postgres.getRows('SELECT reserved FROM stock')
console.log(`reserved ${String(reserved)}, mailed ${mailed.toSorted((a, b) => a - b).join(', ')}`)
