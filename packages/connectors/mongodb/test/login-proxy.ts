import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { BSON, type BsonDocument } from '../src/driver.ts'

/** The account that the proxy knows. */
export interface Account {
  readonly username: string
  readonly password: string
}

const OP_MSG = 2013
const open = new Set(['hello', 'isMaster', 'ismaster', 'ping', 'buildInfo', 'endSessions'])

/**
 * Stands before a server without logins and asks for one, as MongoDB does: SCRAM-SHA-256 (RFC 5802 and 7677). Who has not
 * logged in may do nothing.
 */
export async function startLoginProxy(target: number, account: Account): Promise<AsyncDisposable & { readonly port: number }> {
  const sockets = new Set<Socket>()
  const server = createServer((client) => {
    const upstream = connect({ host: '127.0.0.1', port: target })
    for (const [one, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(one)
      one.on('error', () => undefined)
      one.on('close', () => other.destroy())
    }
    upstream.pipe(client)
    const login = scram(account)
    let isKnown = false
    let read: Buffer = Buffer.alloc(0)
    client.on('data', (chunk: Buffer) => {
      read = Buffer.concat([read, chunk])
      while (read.length >= 4 && read.length >= read.readInt32LE(0)) {
        const message = read.subarray(0, read.readInt32LE(0))
        read = read.subarray(message.length)
        // Behind the header, the flags and the kind of the section.
        const command = message.readInt32LE(12) === OP_MSG ? BSON.deserialize(message.subarray(21)) : undefined
        const [name = 'hello'] = Object.keys(command ?? {})
        if (command !== undefined && name.startsWith('sasl')) {
          const answer = login(command)
          isKnown ||= answer['done'] === true
          client.write(reply(message.readInt32LE(4), answer))
        } else if (isKnown || open.has(name)) upstream.write(message)
        else client.write(reply(message.readInt32LE(4), refusal(13, 'Unauthorized', `command ${name} requires authentication`)))
      }
    })
  }).listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

const refusal = (code: number, codeName: string, errmsg: string): BsonDocument => ({ ok: 0, errmsg, code, codeName })

function reply(to: number, document: BsonDocument): Buffer {
  const body = BSON.serialize(document)
  const header = Buffer.alloc(21)
  header.writeInt32LE(21 + body.length, 0)
  header.writeInt32LE(to, 8)
  header.writeInt32LE(OP_MSG, 12)
  return Buffer.concat([header, body])
}

/** The server's side of one login. */
function scram({ username, password }: Account): (command: BsonDocument) => BsonDocument {
  const salt = randomBytes(16)
  const iterations = 4096
  const salted = pbkdf2Sync(password, salt, iterations, 32, 'sha256')
  const hmac = (key: Buffer, text: string): Buffer => createHmac('sha256', key).update(text).digest()
  let begun = ''
  return ({ payload }) => {
    const text = Buffer.from((payload as { readonly buffer: Uint8Array }).buffer).toString()
    const answer = (said: string, done: boolean): BsonDocument => ({
      ok: 1,
      conversationId: 1,
      done,
      payload: new BSON.Binary(Buffer.from(said)),
    })
    const nonce = /r=([^,]*)/.exec(text)?.[1] ?? ''
    if (begun === '') {
      const said = `r=${nonce}${randomBytes(18).toString('base64')},s=${salt.toString('base64')},i=${iterations}`
      begun = `${text.replace(/^n,,/, '')},${said}`
      return answer(said, false)
    }
    const [bare = '', proof = ''] = text.split(',p=')
    const signed = `${begun},${bare}`
    const clientKey = hmac(salted, 'Client Key')
    const signature = hmac(createHash('sha256').update(clientKey).digest(), signed)
    const expected = Buffer.from(signature.map((byte, index) => byte ^ (clientKey[index] ?? 0))).toString('base64')
    const isUser = begun.startsWith(`n=${username},`)
    if (!isUser || proof !== expected) return refusal(18, 'AuthenticationFailed', 'Authentication failed.')
    return answer(`v=${hmac(hmac(salted, 'Server Key'), signed).toString('base64')}`, true)
  }
}
