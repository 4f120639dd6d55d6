import { once } from 'node:events'
import type { Socket } from 'node:net'
import { networkSteps } from '@common-handlers/connections/check'
import { joinPath, type ReadOptions, type RemoteEntry, type RemoteFiles } from '@common-handlers/connections/files'
import {
  type CallOptions,
  type CheckResult,
  type Closable,
  type CloseOptions,
  HandlerError,
  Lifecycle,
  onAbort,
  type RetryPolicy,
  runCheck,
  withDeadline,
} from '@common-handlers/core'
import type { FtpConfig } from './config.ts'
import { notReadable, toFtpError } from './errors.ts'
import { type Facts, FtpSession, portOf } from './session.ts'

/** Of a list, which may be long: the driver looks whether anything comes. */
const NO_LIMIT = {}

/** The files of one FTP server: as many connections as work goes on at once, up to `maxConnections`; one stays open. */
export class FtpClient implements RemoteFiles, Closable {
  readonly policy: Partial<RetryPolicy>
  readonly timeoutMs: number
  readonly #config: FtpConfig
  readonly #server: string
  readonly #life: Lifecycle
  readonly #lent = new Set<FtpSession>()
  readonly #idle: FtpSession[] = []
  readonly #waiting: (() => void)[] = []
  #open = 0

  constructor(config: FtpConfig) {
    const { host, tls, username, timeoutMs, attempts, retryBudgetMs } = config
    this.#config = config
    this.timeoutMs = timeoutMs
    this.policy = { attempts, budgetMs: retryBudgetMs }
    const scheme = tls === 'implicit' ? 'ftps' : 'ftp'
    this.#server = `${scheme}://${encodeURIComponent(username)}@${host.includes(':') ? `[${host}]` : host}:${portOf(config)}`
    this.#life = new Lifecycle('FtpClient', 'FTP', async () => {
      for (const session of this.#idle) session.close()
    })
  }

  /** A path that does not begin with `/` stands below the folder where a session starts; `%2F` begins one that does (RFC 1738). */
  urlOf(path: string): string {
    const encoded = path.replace(/^\//, '').split('/').map(encodeURIComponent).join('/')
    return `${this.#server}/${path.startsWith('/') ? '%2F' : ''}${encoded}`
  }

  /** Connects and logs in; implied by the first call. */
  connect(options?: CallOptions): Promise<void> {
    return this.#call(options, 'connecting', () => Promise.resolve())
  }

  /** What stands in a folder. A link to a file is that file; one to a folder, or to nothing, is left out. */
  list(folder: string, options?: CallOptions): Promise<RemoteEntry[]> {
    return this.#call(
      options,
      `listing ${folder}`,
      async (session, signal) => {
        const entries: RemoteEntry[] = []
        for (const { name, facts } of await session.list(folder, signal)) {
          const path = joinPath(folder, name)
          const isLink = facts.kind === 'link'
          const meant = isLink ? await session.stat(path, signal).catch(missingAsUndefined) : facts
          if (meant?.kind === 'file' || (meant?.kind === 'folder' && !isLink)) entries.push(entryOf(path, meant))
        }
        return entries
      },
      NO_LIMIT,
    )
  }

  stat(path: string, options?: CallOptions): Promise<RemoteEntry> {
    return this.#call(options, `looking at ${path}`, async (session, signal) => entryOf(path, await session.stat(path, signal)))
  }

  /** The bytes of a file from `start` on (`REST`). */
  async *read(path: string, { start = 0, signal: callers }: ReadOptions = {}): AsyncGenerator<Buffer, void, undefined> {
    const leave = this.#life.hold()
    const signal = callers === undefined ? this.#life.signal : AbortSignal.any([callers, this.#life.signal])
    try {
      const session = await this.#take(signal)
      let had = false
      try {
        for await (const chunk of session.read(path, start, signal)) {
          had = true
          yield chunk
        }
      } catch (error) {
        // Some reset the data connection, or say "no such file", of one that they may not open: what is there says more.
        if (had || signal.aborted) throw error
        this.#give(session)
        await this.stat(path, { signal })
        throw HandlerError.is(error) && error.outcome === 'not-found' ? notReadable(this.#server, path, error) : error
      } finally {
        this.#give(session)
      }
    } finally {
      leave()
    }
  }

  /** Finds the host, reaches its port, looks at its certificate, logs in, and looks into the folder where a session starts. */
  check(options: CallOptions = {}): Promise<CheckResult> {
    const { host, tls, ca } = this.#config
    const target = { host, port: portOf(this.#config), timeoutMs: this.timeoutMs }
    const server = this.#server
    const startTls = (socket: Socket, signal: AbortSignal): Promise<void> => authTls(socket, server, signal)
    return withDeadline(options, { prefix: 'FTP', action: 'the check' }, ({ signal }) =>
      runCheck(
        server,
        [
          ...networkSteps({
            ...target,
            signal,
            ...(tls === 'none' ? {} : { tls: { ca, ...(tls === 'explicit' ? { startTls } : {}) } }),
          }),
          { name: 'log in', run: () => this.#call({ signal }, 'logging in', (session) => Promise.resolve(session.greeting)) },
          {
            name: 'look into the folder',
            run: () =>
              this.#call({ signal }, 'listing', async (session) => {
                const entries = await session.list('', signal)
                const began = performance.now()
                await session.stat('', signal)
                return `${entries.length} entries, an answer takes ${(performance.now() - began).toFixed(1)} ms`
              }),
          },
        ],
        signal,
      ),
    )
  }

  close(options?: CloseOptions): Promise<void> {
    return this.#life.close(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #call<T>(
    options: CallOptions | undefined,
    action: string,
    work: (session: FtpSession, signal: AbortSignal) => Promise<T>,
    limits: { readonly defaultMs?: number } = { defaultMs: this.timeoutMs },
  ): Promise<T> {
    const what = { prefix: 'FTP', action: `${this.#server}: ${action}`, ...limits }
    return this.#life.run(options?.signal, (joined) =>
      withDeadline({ signal: joined, timeoutMs: options?.timeoutMs }, what, async ({ signal }) => {
        const session = await this.#take(signal)
        try {
          return await work(session, signal)
        } finally {
          this.#give(session)
        }
      }),
    )
  }

  /** A session of one's own until it is given back. */
  async #take(signal: AbortSignal): Promise<FtpSession> {
    while (this.#open >= this.#config.maxConnections && this.#idle.length === 0) await this.#turn(signal)
    for (let session = this.#idle.pop(); session !== undefined; session = this.#idle.pop()) {
      if (!session.closed) return this.#taken(session)
      this.#open -= 1
    }
    this.#open += 1
    try {
      return this.#taken(await FtpSession.open(this.#config, this.#server, signal))
    } catch (error) {
      this.#open -= 1
      this.#waiting.shift()?.()
      throw error
    }
  }

  #taken(session: FtpSession): FtpSession {
    this.#lent.add(session)
    return session
  }

  #give(session: FtpSession): void {
    if (!this.#lent.delete(session)) return
    // One is enough for those who come one after the other.
    if (this.#idle.length > 0) session.close()
    if (session.closed) this.#open -= 1
    else this.#idle.push(session)
    this.#waiting.shift()?.()
  }

  async #turn(signal: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.#waiting.push(resolve)
    const forget = onAbort(signal, () => {
      const index = this.#waiting.indexOf(resolve)
      if (index >= 0) this.#waiting.splice(index, 1)
      reject(signal.reason as Error)
    })
    try {
      await promise
    } finally {
      forget()
    }
  }
}

function entryOf(path: string, { kind, size, modifiedAt }: Facts): RemoteEntry {
  if (kind === 'folder') return { path, kind, ...(modifiedAt === undefined ? {} : { modifiedAt }) }
  return {
    path,
    kind: 'file',
    ...(size === undefined ? {} : { size }),
    ...(modifiedAt === undefined ? { vague: true } : { modifiedAt }),
  }
}

function missingAsUndefined(error: unknown): undefined {
  if (!HandlerError.is(error) || error.outcome !== 'not-found') throw error
}

/** What is said in clear before the handshake (RFC 4217 section 4). */
async function authTls(socket: Socket, server: string, signal: AbortSignal): Promise<void> {
  const answer = async (): Promise<string> => {
    let text = ''
    while (!/^\d{3} .*\r\n/m.test(text)) {
      const [data] = (await once(socket, 'data', { signal })) as [Buffer]
      text += data.toString('latin1')
    }
    return text
  }
  await answer()
  socket.write('AUTH TLS\r\n')
  const text = await answer()
  if (text.startsWith('234')) return
  throw toFtpError(Object.assign(new Error(text.trim()), { code: Number(text.slice(0, 3)) }), { server, phase: 'tls' })
}
