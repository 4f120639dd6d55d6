import { connect } from 'amqplib'

/** Makes the queue and puts messages in it: `{"id":0}` and so on, with an id of their own where `withId` says so. */
export async function publishTo(url: string, queue: string, count: number, from = 0, withId = true): Promise<void> {
  const connection = await connect(url)
  try {
    const channel = await connection.createConfirmChannel()
    await channel.assertQueue(queue, { durable: true })
    for (let id = from; id < from + count; id++) {
      channel.sendToQueue(queue, Buffer.from(`{"id":${id}}`), {
        persistent: true,
        contentType: 'application/json',
        ...(withId ? { messageId: `m-${id}` } : {}),
      })
    }
    await channel.waitForConfirms()
  } finally {
    await connection.close()
  }
}
