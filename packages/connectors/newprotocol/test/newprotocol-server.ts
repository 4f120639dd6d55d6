import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { createInterface } from 'node:readline'

/** A small server of the protocol, on loopback. Put a launcher of the real one in its place. */
export interface NewprotocolServer extends AsyncDisposable {
  readonly port: number
  readonly username: string
  readonly password: string
  /** How many clients are connected now. */
  readonly connections: number
}

/** Starts one with a table `orders` of so many rows, whose ids begin past 2^53. */
export async function startNewprotocolServer(count: number): Promise<NewprotocolServer> {
  const [username, password] = ['reader', 'correct horse battery staple']
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => undefined).on('close', () => sockets.delete(socket))
    serve(socket, `${username} ${password}`, count).catch(() => socket.destroy())
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    username,
    password,
    get connections() {
      return sockets.size
    },
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

const first = 2n ** 53n

async function serve(socket: Socket, login: string, count: number): Promise<void> {
  let isKnown = false
  const say = async (line: string): Promise<void> => {
    if (!socket.write(`${line}\n`)) await once(socket, 'drain')
  }
  await say('HELLO 1.0')
  for await (const line of createInterface(socket)) {
    const [word, ...words] = line.split(' ')
    if (word === 'LOGIN') isKnown = words.join(' ') === login
    if (!isKnown) {
      socket.end('ERROR LOGIN unknown user or wrong password\n')
      return
    }
    if (word !== 'READ') await say('OK')
    else if (words[0] !== 'orders') await say(`ERROR TABLE there is no table ${words[0]}`)
    else {
      const after = BigInt(words[1] ?? 0)
      const begin = after < first ? 1 : Number(after - first) + 1
      for (let n = begin; n <= count; n++) await say(`ROW ${first + BigInt(n)} ${JSON.stringify({ n, name: `Größe ${n}` })}`)
      await say('END')
    }
  }
}
