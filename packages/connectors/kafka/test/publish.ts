import { setTimeout as sleep } from 'node:timers/promises'
import { Admin, Producer } from '@platformatic/kafka'

const base = (broker: string): { clientId: string; bootstrapBrokers: string[] } => ({
  clientId: 'test',
  bootstrapBrokers: [broker],
})

export async function createTopic(broker: string, topic: string, partitions: number): Promise<void> {
  const admin = new Admin(base(broker))
  try {
    await admin.createTopics({ topics: [topic], partitions, replicas: 1 })
    // A broker learns of it a little later.
    const known = (): Promise<boolean> =>
      admin.metadata({ topics: [topic], forceUpdate: true }).then(
        ({ topics }) => (topics.get(topic)?.partitions.filter(({ leader }) => leader >= 0).length ?? 0) === partitions,
        () => false,
      )
    while (!(await known())) await sleep(20)
  } finally {
    await admin.close()
  }
}

export interface TestMessage {
  readonly partition: number
  readonly key?: Buffer | undefined
  readonly value?: Buffer | undefined
  readonly headers?: Map<Buffer, Buffer> | undefined
}

export async function send(broker: string, topic: string, messages: readonly TestMessage[]): Promise<void> {
  const producer = new Producer({ ...base(broker), idempotent: true })
  try {
    for (let begin = 0; begin < messages.length; begin += 1000) {
      await producer.send({
        messages: messages.slice(begin, begin + 1000).map(({ partition, key, value, headers }) => ({
          topic,
          partition,
          ...(key === undefined ? {} : { key }),
          ...(value === undefined ? {} : { value }),
          ...(headers === undefined ? {} : { headers }),
        })),
        acks: -1,
      })
    }
  } finally {
    await producer.close()
  }
}

/** Puts `{"id":0}` and so on in turn into the partitions of a topic. */
export const publishTo = (broker: string, topic: string, count: number, partitions: number, from = 0): Promise<void> =>
  send(
    broker,
    topic,
    Array.from({ length: count }, (_, index) => ({
      partition: (from + index) % partitions,
      key: Buffer.from(`k${from + index}`),
      value: Buffer.from(`{"id":${from + index}}`),
    })),
  )
