import { jetstream, jetstreamManager } from '@nats-io/jetstream'
import { connect, type NatsConnection } from '@nats-io/transport-node'

/** What a test knows of a server. */
export interface Reach {
  readonly servers: readonly string[]
  readonly username?: string | undefined
  readonly password?: string | undefined
  readonly ca?: string | undefined
}

export const connectTo = ({ servers, username, password, ca }: Reach): Promise<NatsConnection> =>
  connect({
    servers: [...servers],
    ...(username === undefined ? {} : { user: username, pass: password ?? '' }),
    ...(ca === undefined ? {} : { tls: { ca } }),
  })

/** Makes the stream where there is none and puts messages in it: `{"id":0}` and so on, under `<stream>.a` and `<stream>.b`. */
export async function publishTo(reach: Reach, stream: string, count: number, from = 0): Promise<void> {
  const connection = await connectTo(reach)
  try {
    const manager = await jetstreamManager(connection)
    await manager.streams.add({ name: stream, subjects: [`${stream}.>`] })
    const client = jetstream(connection)
    for (let begin = from; begin < from + count; begin += 500) {
      const end = Math.min(begin + 500, from + count)
      await Promise.all(
        Array.from({ length: end - begin }, (_, index) => {
          const id = begin + index
          return client.publish(`${stream}.${id % 2 === 0 ? 'a' : 'b'}`, `{"id":${id}}`)
        }),
      )
    }
  } finally {
    await connection.close()
  }
}
