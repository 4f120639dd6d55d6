import type { WorkerModule } from '@common-handlers/outbox-cli'

// outbox work examples/outbox.config.ts

const worker: WorkerModule = {
  name: 'example',
  maxParallel: 20,
  handlers: {
    'order.created': {
      effect: 'tx',
      needsDb: true,
      handler: async ({ id }: { id: number }, { getRepository }) => {
        await using repository = await getRepository()
        await repository.query('UPDATE stock SET reserved = reserved + 1 WHERE order_id = $1', [id])
      },
    },
    'mail.send': async ({ to }: { to: string }) => {
      const response = await fetch('https://mail.example/send', { method: 'POST', body: JSON.stringify({ to }) })
      if (!response.ok) throw new Error(`the mail server answered ${response.status}`)
    },
  },
}

// oxlint-disable-next-line import/no-default-export -- what the program asks for
export default worker
