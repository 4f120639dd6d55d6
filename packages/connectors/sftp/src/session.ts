import { once } from 'node:events'
import { connect as connectTcp, type Socket } from 'node:net'
import ssh2, { type ConnectConfig, type ServerHostKeyAlgorithm, type SFTPWrapper } from 'ssh2'
import type { SftpConfig } from './config.ts'
import { connectionLost, hostKeyMismatch, hostKeyUnknown, keyUnusable, toSftpError } from './errors.ts'
import { fingerprintOf, type KnownKeys, shownKey } from './host-key.ts'

/** What SSH says of a file. */
export interface Attributes {
  readonly kind: 'file' | 'folder' | 'link' | 'other'
  readonly size: number
  readonly modifiedAt: Date
}

/** One login over one connection. Each call ends with its signal, or when the connection is lost. */
export interface Session {
  readonly lost: boolean
  /** What the server says that it is, and the key it showed: `SSH-2.0-OpenSSH_9.2p1, SHA256:…`. */
  readonly peer: string
  list(folder: string, signal: AbortSignal): Promise<{ readonly name: string; readonly attributes: Attributes }[]>
  stat(path: string, signal: AbortSignal): Promise<Attributes>
  open(path: string, signal: AbortSignal): Promise<Buffer>
  /** Fewer bytes than asked for, even none, at the end of the file. */
  read(handle: Buffer, position: number, length: number, signal: AbortSignal): Promise<Buffer>
  closeHandle(handle: Buffer): void
  end(): Promise<void>
}

/** What every server gives at once (draft-ietf-secsh-filexfer-02 section 3). */
const ANSWER_BYTES = 32 * 1024

/** In the order of ssh2, which signs with SHA-1 only where nothing else is left. */
const hostKeyAlgorithms: readonly string[] = [
  'ssh-ed25519',
  'ecdsa-sha2-nistp256',
  'ecdsa-sha2-nistp384',
  'ecdsa-sha2-nistp521',
  'rsa-sha2-512',
  'rsa-sha2-256',
  'ssh-rsa',
]

/** Connects, looks at the key of the server, and logs in. */
export async function openSession(config: SftpConfig, known: KnownKeys, server: string, signal: AbortSignal): Promise<Session> {
  signal.throwIfAborted()
  const { host, port, username, timeoutMs } = config
  const login = loginOf(config)
  const socket = connectTcp({ host, port, noDelay: true })
  const client = new ssh2.Client()
  let refusal: Error | undefined
  let fingerprint = ''
  const greeting = firstLine(socket)
  const { promise, resolve, reject } = Promise.withResolvers<SFTPWrapper>()
  promise.catch(() => undefined)
  const fail = (error: unknown): void => reject(refusal ?? (error as Error))
  const abort = (): void => fail(signal.reason)
  signal.addEventListener('abort', abort, { once: true })
  // It stays: a connection may fail after it was ready.
  client.on('error', fail)
  client.on('close', () => fail(connectionLost(server)))
  client.on('keyboard-interactive', (_name, _instructions, _language, prompts, finish) =>
    finish(prompts.map(() => config.password?.expose() ?? '')),
  )
  client.once('ready', () =>
    client.sftp((error, sftp) => {
      if (error === undefined) resolve(sftp)
      else fail(error)
    }),
  )
  try {
    client.connect({
      sock: socket,
      username,
      ...login,
      tryKeyboard: config.password !== undefined,
      readyTimeout: timeoutMs,
      // A line that is dead is noticed in the time that it may be silent.
      keepaliveInterval: Math.ceil(timeoutMs / 4),
      keepaliveCountMax: 3,
      algorithms: { serverHostKey: known.preferred(hostKeyAlgorithms) as ServerHostKeyAlgorithm[] },
      hostVerifier: (key: Buffer) => {
        fingerprint = fingerprintOf(key)
        if (known.has(key)) return true
        refusal = (known.isEmpty ? hostKeyUnknown : hostKeyMismatch)(server, fingerprint, shownKey(key))
        return false
      },
    })
    const sftp = await promise
    return new SshSession(client, sftp, socket, server, `${await greeting}, ${fingerprint}`)
  } catch (error) {
    client.destroy()
    socket.destroy()
    signal.throwIfAborted()
    throw toSftpError(error, { server })
  } finally {
    signal.removeEventListener('abort', abort)
  }
}

function loginOf({ password, privateKey, passphrase, agent }: SftpConfig): Partial<ConnectConfig> {
  if (privateKey !== undefined) {
    const parsed = ssh2.utils.parseKey(privateKey.expose(), passphrase?.expose())
    if (parsed instanceof Error) throw keyUnusable(parsed.message, parsed)
  }
  return {
    ...(password === undefined ? {} : { password: password.expose() }),
    ...(privateKey === undefined ? {} : { privateKey: privateKey.expose() }),
    ...(passphrase === undefined ? {} : { passphrase: passphrase.expose() }),
    ...(agent === undefined ? {} : { agent }),
  }
}

/** What the server says first: its protocol and program (RFC 4253 section 4.2). */
async function firstLine(socket: Socket): Promise<string> {
  const [data] = (await once(socket, 'data').catch(() => [Buffer.alloc(0)])) as [Buffer]
  return /^SSH-[\x20-\x7e]*/m.exec(data.toString('latin1'))?.[0] ?? 'SSH'
}

type Done<T> = (error: Error | null | undefined, value: T) => void

class SshSession implements Session {
  readonly peer: string
  readonly #client: ssh2.Client
  readonly #sftp: SFTPWrapper
  readonly #socket: Socket
  readonly #server: string
  /** What waits for an answer: each is told when the connection is lost. */
  readonly #waiting = new Set<(error: unknown) => void>()
  #lost = false

  constructor(client: ssh2.Client, sftp: SFTPWrapper, socket: Socket, server: string, peer: string) {
    this.#client = client
    this.#sftp = sftp
    this.#socket = socket
    this.#server = server
    this.peer = peer
    let reason: unknown
    client.on('error', (error) => (reason = error))
    sftp.on('error', (error: unknown) => (reason = error))
    const lose = (): void => {
      this.#lost = true
      for (const tell of this.#waiting) tell(connectionLost(server, reason))
      client.end()
    }
    client.once('close', lose)
    sftp.once('close', lose)
    sftp.once('end', lose)
  }

  get lost(): boolean {
    return this.#lost
  }

  async list(folder: string, signal: AbortSignal): Promise<{ name: string; attributes: Attributes }[]> {
    const found = await this.#ask<ssh2.FileEntryWithStats[]>(folder, signal, (done) => this.#sftp.readdir(folder, done))
    return found.map(({ filename, attrs }) => ({ name: filename, attributes: attributesOf(attrs) }))
  }

  async stat(path: string, signal: AbortSignal): Promise<Attributes> {
    return attributesOf(await this.#ask<ssh2.Stats>(path, signal, (done) => this.#sftp.stat(path, done)))
  }

  open(path: string, signal: AbortSignal): Promise<Buffer> {
    return this.#ask<Buffer>(path, signal, (done) => this.#sftp.open(path, 'r', done))
  }

  async read(handle: Buffer, position: number, length: number, signal: AbortSignal): Promise<Buffer> {
    const buffer = Buffer.allocUnsafe(length)
    const offsets = Array.from({ length: Math.ceil(length / ANSWER_BYTES) }, (_, index) => index * ANSWER_BYTES)
    // In one write: they are small, and many.
    this.#socket.cork()
    const answers = offsets.map((offset) =>
      this.#fill(handle, buffer.subarray(offset, offset + ANSWER_BYTES), position + offset, signal),
    )
    this.#socket.uncork()
    const filled = await Promise.all(answers)
    // What stands behind one that is shorter is not known to follow it.
    const short = filled.findIndex((bytes, index) => bytes < Math.min(ANSWER_BYTES, length - index * ANSWER_BYTES))
    return short < 0 ? buffer : buffer.subarray(0, short * ANSWER_BYTES + (filled[short] ?? 0))
  }

  /** An answer may be shorter than asked for; none at all is the end of the file. */
  async #fill(handle: Buffer, piece: Buffer, position: number, signal: AbortSignal): Promise<number> {
    let filled = 0
    while (filled < piece.byteLength) {
      const read = await this.#ask<number>('', signal, (done) =>
        this.#sftp.read(handle, piece, filled, piece.byteLength - filled, position + filled, done),
      )
      if (read === 0) break
      filled += read
    }
    return filled
  }

  closeHandle(handle: Buffer): void {
    if (!this.#lost) this.#sftp.close(handle, () => undefined)
  }

  async end(): Promise<void> {
    if (this.#lost) return
    const closed = once(this.#client, 'close').catch(() => undefined)
    this.#client.end()
    // A server that is gone does not answer: the connection is let go of without it.
    const timer = setTimeout(() => this.#client.destroy(), 2_000)
    await closed
    clearTimeout(timer)
  }

  #ask<T>(path: string, signal: AbortSignal, start: (done: Done<T>) => void): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>()
    const tell = (error: unknown): void => {
      signal.removeEventListener('abort', abort)
      this.#waiting.delete(tell)
      reject(error)
    }
    const abort = (): void => tell(signal.reason)
    if (this.#lost) tell(connectionLost(this.#server))
    else if (signal.aborted) tell(signal.reason)
    else {
      this.#waiting.add(tell)
      signal.addEventListener('abort', abort, { once: true })
      start((error, value) => {
        // A channel that ends answers everybody with an error of its own; what ends it has more to say.
        if (error instanceof Error && error.message === 'No response from server')
          return setImmediate(tell, connectionLost(this.#server))
        if (error !== undefined && error !== null)
          return tell(toSftpError(error, { server: this.#server, ...(path === '' ? {} : { path }) }))
        signal.removeEventListener('abort', abort)
        this.#waiting.delete(tell)
        resolve(value)
      })
    }
    return promise
  }
}

function attributesOf(stats: ssh2.Stats): Attributes {
  const kind = stats.isFile() ? 'file' : stats.isDirectory() ? 'folder' : stats.isSymbolicLink() ? 'link' : 'other'
  return { kind, size: stats.size, modifiedAt: new Date(stats.mtime * 1000) }
}
