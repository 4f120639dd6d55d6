import { PassThrough } from 'node:stream'
import { joinPath } from '@common-handlers/connections/files'
import { Client } from 'basic-ftp'
import type { FtpConfig } from './config.ts'
import { toFtpError } from './errors.ts'

/** What the server says of a file. */
export interface Facts {
  readonly kind: 'file' | 'folder' | 'link' | 'other'
  readonly size: number | undefined
  /** Absent where the server tells it to the minute or to the day alone. */
  readonly modifiedAt: Date | undefined
}

const CHUNK_BYTES = 1024 * 1024
/** How long an answer may come after the reset of a data connection. */
const RESET_MS = 200

/** One control connection: it does one thing at a time. A call that is ended by its signal ends the connection. */
export class FtpSession {
  /** What the server said first. */
  readonly greeting: string
  readonly #client: Client
  readonly #server: string
  /** Where the session began: what is not absolute stands below it. */
  readonly #start: string

  private constructor(client: Client, server: string, greeting: string, start: string) {
    this.#client = client
    this.#server = server
    this.greeting = greeting
    this.#start = start
  }

  /** Connects, and logs in. */
  static async open(config: FtpConfig, server: string, signal: AbortSignal): Promise<FtpSession> {
    const { host, tls, username, password, ca, timeoutMs } = config
    const client = new Client(timeoutMs)
    patient(client)
    const [port, options] = [portOf(config), { host, ...(ca === undefined ? {} : { ca }) }]
    const { message } = await obeying(client, { server, phase: 'connect' }, signal, () =>
      tls === 'implicit' ? client.connectImplicitTLS(host, port, options) : client.connect(host, port),
    )
    if (tls === 'explicit') await obeying(client, { server, phase: 'tls' }, signal, () => client.useTLS(options))
    return await obeying(client, { server, phase: 'login' }, signal, async () => {
      // Before the login too: its name may need it.
      await client.sendIgnoringError('OPTS UTF8 ON')
      await client.login(username, password?.expose() ?? '')
      await client.useDefaultSettings()
      // Of a folder that is refused, other ways to ask may give an empty list.
      if (client.availableListCommands[0] === 'MLSD') client.availableListCommands = ['MLSD']
      return new FtpSession(client, server, firstLine(message), await client.pwd())
    })
  }

  get closed(): boolean {
    return this.#client.closed
  }

  close(): void {
    this.#client.close()
  }

  list(folder: string, signal: AbortSignal): Promise<{ readonly name: string; readonly facts: Facts }[]> {
    return this.#obeying(folder, signal, async () => {
      // Not as an argument: LIST takes a missing folder for an empty one, and a name with a dash for an option.
      await this.#client.cd(this.#absolute(folder))
      return (await this.#client.list()).map((info) => {
        const kind = info.isFile ? 'file' : info.isDirectory ? 'folder' : info.isSymbolicLink ? 'link' : 'other'
        return { name: info.name, facts: { kind, size: info.size, modifiedAt: seconds(info.modifiedAt) } }
      })
    })
  }

  /** By `CWD`, `SIZE` and `MDTM`: `MLST` gives the size of a link itself (ProFTPD 1.3.8), `SIZE` that of a folder (rclone 1.75). */
  stat(path: string, signal: AbortSignal): Promise<Facts> {
    const absolute = this.#absolute(path)
    return this.#obeying(path, signal, async () => {
      const refusal = await this.#client.cd(absolute).then(() => undefined, asAnswer)
      if (refusal === undefined) return { kind: 'folder', size: undefined, modifiedAt: undefined }
      const size = await this.#client.size(absolute).catch(asAnswer)
      const modifiedAt = await this.#client.lastMod(absolute).catch(asAnswer)
      if (size instanceof Error && modifiedAt instanceof Error) throw refusal
      return {
        kind: 'file',
        size: size instanceof Error ? undefined : size,
        modifiedAt: modifiedAt instanceof Error ? undefined : seconds(modifiedAt),
      }
    })
  }

  /** The bytes from `start` on. A loop that is left before the end ends the connection: there is no other way to stop a server. */
  async *read(path: string, start: number, signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
    const place = { server: this.#server, path }
    const bytes = new PassThrough({ highWaterMark: CHUNK_BYTES })
    let complete = false
    const abort = (): void => this.#client.close()
    signal.throwIfAborted()
    signal.addEventListener('abort', abort, { once: true })
    try {
      const transfer = this.#client.downloadTo(bytes, this.#absolute(path), start)
      transfer.catch((error: unknown) => bytes.destroy(error as Error))
      for await (const chunk of bytes as AsyncIterable<Buffer>) yield chunk
      await transfer
      complete = true
    } catch (error) {
      signal.throwIfAborted()
      throw toFtpError(error, place)
    } finally {
      signal.removeEventListener('abort', abort)
      if (!complete) this.#client.close()
      bytes.on('error', () => undefined).destroy()
    }
  }

  #absolute(path: string): string {
    return path.startsWith('/') ? path : path === '' ? this.#start : joinPath(this.#start, path)
  }

  #obeying<T>(path: string, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    return obeying(this.#client, { server: this.#server, path }, signal, work)
  }
}

async function obeying<T>(
  client: Client,
  place: Parameters<typeof toFtpError>[1],
  signal: AbortSignal,
  work: () => Promise<T>,
): Promise<T> {
  signal.throwIfAborted()
  const abort = (): void => client.close()
  signal.addEventListener('abort', abort, { once: true })
  try {
    return await work()
  } catch (error) {
    signal.throwIfAborted()
    const ours = toFtpError(error, place)
    // An answer leaves the connection as it was; before the login is done there is nothing to keep.
    if (place.phase !== undefined || !isAnswer(error)) client.close()
    throw ours
  } finally {
    signal.removeEventListener('abort', abort)
  }
}

/** 990 is the port of implicit TLS (IANA's `ftps`). */
export const portOf = ({ port, tls }: Pick<FtpConfig, 'port' | 'tls'>): number => port ?? (tls === 'implicit' ? 990 : 21)

const isAnswer = (error: unknown): boolean => typeof (error as { readonly code?: unknown }).code === 'number'

/** A refusal of the server; anything else is thrown. */
function asAnswer(error: unknown): Error {
  if (error instanceof Error && isAnswer(error)) return error
  throw error
}

const firstLine = (message: string): string =>
  message
    .split(/\r?\n/)[0]
    ?.replace(/^220[ -]/, '')
    .trim() ?? ''

/** Some servers know fractions of a second in a list and none of one file. */
const seconds = (time: Date | undefined): Date | undefined =>
  time === undefined ? undefined : new Date(Math.floor(time.getTime() / 1000) * 1000)

/**
 * A server that refuses a file says so, and resets the data connection that it does not need; the driver takes what comes
 * first. Here the answer has a moment to arrive.
 */
function patient(client: Client): void {
  let strategy = client.prepareTransfer
  const prepare: Client['prepareTransfer'] = async (context) => {
    const answer = await strategy(context)
    // The first that works takes the place of this function.
    if (client.prepareTransfer !== prepare) strategy = client.prepareTransfer
    client.prepareTransfer = prepare
    const { dataSocket } = context
    for (const event of ['error', 'close'] as const) dataSocket?.removeAllListeners(event)
    dataSocket?.on('error', (error: Error) => {
      const give = (): void => {
        // An answer that came meanwhile has put it away.
        if (context.dataSocket === dataSocket) context.closeWithError(error)
      }
      setTimeout(give, RESET_MS).unref()
    })
    return answer
  }
  client.prepareTransfer = prepare
}
