import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { mkdtemp, readFile, realpath, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { childEnvironment } from '../config.ts'
import { ServerStartError } from '../errors.ts'
import { anyRunning, processTree } from './process-tree.ts'
import { tellReaper } from './reaper.ts'

/** What every launched server can do beside giving its address. Addresses stay the same through `down`, `up` and `restart`. */
export interface ServerControl extends AsyncDisposable {
  /** The server's processes, its own first; empty while it is down. */
  pids(): Promise<readonly number[]>
  /** The last lines of its log. */
  logTail(lines?: number): Promise<string>
  /** Takes the server down and keeps its data. By default this is `kill -9`; `graceful` lets it finish. */
  down(options?: { readonly graceful?: boolean }): Promise<void>
  /** Starts it again on the same ports and data, and waits until it answers. */
  up(): Promise<void>
  /** `down`, then `up`. */
  restart(options?: { readonly graceful?: boolean }): Promise<void>
  /** Stops the server for good and deletes its data. A second call does nothing. */
  stop(): Promise<void>
}

export interface ServerSpecification {
  /** The kind, for messages: `postgres`, `trino`, … */
  readonly name: string
  /** Its temp folder from {@link inTemporaryFolder}; deleted at `stop`. */
  readonly folder: string
  readonly command: string
  readonly args: readonly string[]
  readonly cwd?: string
  readonly env?: Readonly<Record<string, string | undefined>>
  /** The account to run as, where the server refuses to run as root. */
  readonly account?: { readonly uid: number; readonly gid: number }
  /** The signal of an orderly shutdown. */
  readonly stopSignal: NodeJS.Signals
  readonly startTimeoutMs: number
  /** Throws while the server does not do real work yet. */
  ready(signal: AbortSignal): Promise<void>
  /** Files that it leaves outside its folder; deleted with it. */
  readonly leftovers?: readonly string[]
}

const gracePeriodMs = 15_000

/** A temp folder for one server, which goes away with this process at the latest. */
async function temporaryFolder(name: string): Promise<string> {
  // The real path: some servers compare it with what they are told (on macOS /var is a link).
  const folder = await mkdtemp(join(await realpath(tmpdir()), `common-handlers-${name}-`))
  tellReaper({ do: 'watch-place', place: folder })
  return folder
}

/** Gives `work` a temp folder, which is deleted at once if it fails; else it belongs to the server that `work` launched. */
export async function inTemporaryFolder<T>(name: string, work: (folder: string) => Promise<T>): Promise<T> {
  const folder = await temporaryFolder(name)
  try {
    return await work(folder)
  } catch (error) {
    await deletePlace(folder)
    throw error
  }
}

async function deletePlace(place: string): Promise<void> {
  await rm(place, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 })
  tellReaper({ do: 'forget-place', place })
}

/** Starts a server as a child process and waits until it is ready. @throws ServerStartError with the end of its log. */
export async function launch(specification: ServerSpecification): Promise<ServerControl> {
  for (const place of specification.leftovers ?? []) tellReaper({ do: 'watch-place', place })
  const server = new ServerProcess(specification)
  await server.up()
  return {
    pids: () => server.pids(),
    logTail: (lines) => server.logTail(lines),
    down: (options) => server.down(options),
    up: () => server.up(),
    restart: (options) => server.restart(options),
    stop: () => server.stop(),
    [Symbol.asyncDispose]: () => server.stop(),
  }
}

class ServerProcess {
  readonly #specification: ServerSpecification
  readonly #logFile: string
  #child: ChildProcess | undefined
  #ended: Promise<string> = Promise.resolve('')
  #stopped: Promise<void> | undefined

  constructor(specification: ServerSpecification) {
    this.#specification = specification
    this.#logFile = join(specification.folder, 'server.log')
  }

  async pids(): Promise<readonly number[]> {
    return this.#child?.pid === undefined ? [] : await processTree(this.#child.pid)
  }

  async logTail(lines = 30): Promise<string> {
    const text = await readFile(this.#logFile, 'utf8').catch(() => '')
    return text.trimEnd().split('\n').slice(-lines).join('\n')
  }

  async up(): Promise<void> {
    if (this.#stopped !== undefined) throw new Error(`${this.#specification.name} was stopped; its data is gone`)
    if (this.#child !== undefined) return
    this.#spawn()
    try {
      await this.#untilReady()
    } catch (error) {
      const logTail = await this.logTail()
      await this.down()
      const reason = error instanceof Error ? error.message : String(error)
      throw new ServerStartError(this.#specification.name, reason, logTail, { cause: error })
    }
  }

  async down(options: { readonly graceful?: boolean } = {}): Promise<void> {
    const child = this.#child
    if (child?.pid === undefined) return
    child.ref()
    const tree = await processTree(child.pid)
    if (options.graceful === true) {
      child.kill(this.#specification.stopSignal)
      const inTime = await Promise.race([this.#ended.then(() => true), sleep(gracePeriodMs, false, { ref: false })])
      if (!inTime) kill(tree)
    } else {
      kill(tree)
    }
    await this.#ended
    await untilGone(tree)
  }

  async restart(options?: { readonly graceful?: boolean }): Promise<void> {
    await this.down(options)
    await this.up()
  }

  async stop(): Promise<void> {
    this.#stopped ??= (async () => {
      await this.down()
      const { folder, leftovers = [] } = this.#specification
      for (const place of [...leftovers, folder]) await deletePlace(place)
    })()
    await this.#stopped
  }

  #spawn(): void {
    const { command, args, account, folder, cwd = folder, env } = this.#specification
    const log = openSync(this.#logFile, 'a')
    try {
      const child = spawn(command, args, {
        cwd,
        // What it leaves in the temp folder of its kind of system goes with its own.
        env: childEnvironment({ TMPDIR: folder, ...env }),
        stdio: ['ignore', log, log],
        // Its own process group: Ctrl-C reaches us, and we decide how the server ends.
        detached: true,
        ...account,
      })
      const { pid } = child
      if (pid !== undefined) tellReaper({ do: 'watch-process', pid })
      this.#ended = new Promise((resolve) => {
        const settle = (how: string): void => {
          if (pid !== undefined) tellReaper({ do: 'forget-process', pid })
          if (this.#child === child) this.#child = undefined
          resolve(how)
        }
        child.once('error', (error) => settle(error.message))
        child.once('exit', (code, signal) => settle(`it ended with ${code ?? signal ?? 'an unknown code'}`))
      })
      // A caller that forgets to stop a server can still end; the reaper stops it then.
      child.unref()
      this.#child = child
    } finally {
      closeSync(log)
    }
  }

  async #untilReady(): Promise<void> {
    const { startTimeoutMs, ready } = this.#specification
    const deadline = performance.now() + startTimeoutMs
    let ended: string | undefined
    void this.#ended.then((how) => (ended = how))
    let last: unknown
    for (let pauseMs = 20; performance.now() < deadline; pauseMs = Math.min(pauseMs * 1.3, 250)) {
      await sleep(pauseMs)
      if (ended !== undefined) throw new Error(ended)
      try {
        await ready(AbortSignal.timeout(10_000))
        return
      } catch (error) {
        last = error
      }
    }
    const reason = last instanceof Error ? last.message : String(last)
    throw new Error(`it was not ready after ${startTimeoutMs / 1000} s: ${reason}`)
  }
}

function kill(tree: readonly number[]): void {
  for (const pid of tree) {
    try {
      process.kill(pid, 'SIGKILL')
    } catch {
      // It ended by itself.
    }
  }
}

/** PostgreSQL's children outlive it for a moment, and while one does, the data folder cannot be opened again. */
async function untilGone(tree: readonly number[]): Promise<void> {
  const deadline = performance.now() + 5_000
  while (performance.now() < deadline && (await anyRunning(tree))) await sleep(20)
}
