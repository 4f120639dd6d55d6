import { readFile } from 'node:fs/promises'
import { networkSteps } from '@common-handlers/connections/check'
import { joinPath, type ReadOptions, type RemoteEntry, type RemoteFiles } from '@common-handlers/connections/files'
import {
  type CallOptions,
  type CheckResult,
  type Closable,
  type CloseOptions,
  HandlerError,
  Lifecycle,
  untilAborted,
  type RetryPolicy,
  runCheck,
  withDeadline,
} from '@common-handlers/core'
import type { SftpConfig } from './config.ts'
import { knownHostsUnreadable } from './errors.ts'
import { KnownKeys } from './host-key.ts'
import { type Attributes, openSession, type Session } from './session.ts'

/** What is handed on at a time, and how much of that is asked for ahead. */
const PIECE_BYTES = 256 * 1024
const PIECES_AHEAD = 8

/** Of a list, which may be long: a line that is dead is noticed all the same. */
const NO_LIMIT = {}

/** The files of one SSH server: one connection for all calls, made with the first and made again when it was lost. */
export class SftpClient implements RemoteFiles, Closable {
  readonly policy: Partial<RetryPolicy>
  readonly timeoutMs: number
  readonly #config: SftpConfig
  readonly #server: string
  readonly #life: Lifecycle
  readonly #closing = new AbortController()
  #session: Promise<Session> | undefined
  /** What the last promise that was kept gave. */
  #last: Session | undefined

  constructor(config: SftpConfig) {
    const { host, port, username, timeoutMs, attempts, retryBudgetMs } = config
    this.#config = config
    this.timeoutMs = timeoutMs
    this.policy = { attempts, budgetMs: retryBudgetMs }
    this.#server = `sftp://${encodeURIComponent(username)}@${host.includes(':') ? `[${host}]` : host}:${port}`
    this.#life = new Lifecycle('SftpClient', 'SFTP', async () => {
      this.#closing.abort(new Error('closed'))
      await (await this.#session?.catch(() => undefined))?.end()
    })
  }

  /** A path that does not begin with `/` stands below `~`, where a session starts. */
  urlOf(path: string): string {
    const encoded = path.split('/').map(encodeURIComponent).join('/')
    return `${this.#server}${path.startsWith('/') ? '' : '/~/'}${encoded}`
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
        for (const { name, attributes } of await session.list(folder === '' ? '.' : folder, signal)) {
          const path = joinPath(folder, name)
          const isLink = attributes.kind === 'link'
          const meant = isLink ? await session.stat(path, signal).catch(missingAsUndefined) : attributes
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

  /** The bytes of a file from `start` up to its size, asked for ahead, 2 MiB at most. */
  async *read(path: string, options: ReadOptions = {}): AsyncGenerator<Buffer, void, undefined> {
    const leave = this.#life.hold()
    const signal = options.signal === undefined ? this.#life.signal : AbortSignal.any([options.signal, this.#life.signal])
    const ended = new AbortController()
    const asking = AbortSignal.any([signal, ended.signal])
    try {
      const session = await this.#connected(signal)
      const end = options.version?.size ?? (await session.stat(path, signal)).size
      const handle = await session.open(path, signal)
      try {
        const ahead: Promise<Buffer>[] = []
        let position = options.start ?? 0
        for (;;) {
          for (; ahead.length < PIECES_AHEAD && position < end; position += PIECE_BYTES) {
            const piece = session.read(handle, position, Math.min(PIECE_BYTES, end - position), asking)
            piece.catch(() => undefined)
            ahead.push(piece)
          }
          const bytes = await ahead.shift()
          if (bytes === undefined || bytes.byteLength === 0) return
          yield bytes
          // Shorter than it was said to be: what stands behind belongs elsewhere.
          if (bytes.byteLength < PIECE_BYTES) return
        }
      } finally {
        ended.abort(new Error('nobody reads on'))
        session.closeHandle(handle)
      }
    } finally {
      leave()
    }
  }

  /** Finds the host, reaches its port, looks at its key, logs in, and looks into the folder where a session starts. */
  check(options: CallOptions = {}): Promise<CheckResult> {
    const { host, port } = this.#config
    const what = { prefix: 'SFTP', action: 'the check' }
    return withDeadline(options, what, ({ signal }) =>
      runCheck(
        this.#server,
        [
          ...networkSteps({ host, port, signal, timeoutMs: this.timeoutMs }),
          { name: 'log in', run: () => this.#call({ signal }, 'logging in', (session) => Promise.resolve(session.peer)) },
          {
            name: 'look into the folder',
            run: () =>
              this.#call({ signal }, 'listing', async (session) => {
                const entries = await session.list('.', signal)
                const began = performance.now()
                await session.stat('.', signal)
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
    work: (session: Session, signal: AbortSignal) => Promise<T>,
    limits: { readonly defaultMs?: number } = { defaultMs: this.timeoutMs },
  ): Promise<T> {
    const what = { prefix: 'SFTP', action: `${this.#server}: ${action}`, ...limits }
    return this.#life.run(options?.signal, (joined) =>
      withDeadline({ signal: joined, timeoutMs: options?.timeoutMs }, what, async ({ signal }) =>
        work(await this.#connected(signal), signal),
      ),
    )
  }

  /** The session of all calls, opened once for those that wait; one that gives up leaves it to the others. */
  async #connected(signal: AbortSignal): Promise<Session> {
    signal.throwIfAborted()
    if (this.#last?.lost === true) this.#session = this.#last = undefined
    const opening = (this.#session ??= this.#open())
    opening.catch(() => {
      if (this.#session === opening) this.#session = undefined
    })
    return await untilAborted(opening, signal)
  }

  async #open(): Promise<Session> {
    const { host, port, hostKeys, knownHosts, timeoutMs } = this.#config
    const lines =
      knownHosts === undefined
        ? ''
        : await readFile(knownHosts, 'utf8').catch((error: unknown) => {
            throw knownHostsUnreadable(knownHosts, error)
          })
    const what = { prefix: 'SFTP', action: `${this.#server}: connecting`, defaultMs: timeoutMs }
    return await withDeadline({ signal: this.#closing.signal }, what, async ({ signal }) => {
      this.#last = await openSession(this.#config, KnownKeys.of(hostKeys, lines, host, port), this.#server, signal)
      return this.#last
    })
  }
}

const entryOf = (path: string, { kind, size, modifiedAt }: Attributes): RemoteEntry => ({
  path,
  kind: kind === 'folder' ? 'folder' : 'file',
  ...(kind === 'folder' ? {} : { size }),
  modifiedAt,
})

function missingAsUndefined(error: unknown): undefined {
  if (!HandlerError.is(error) || error.outcome !== 'not-found') throw error
}
