import { type ChildProcess, fork } from 'node:child_process'
import { EventEmitter } from 'node:events'
import { extname } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { ConfigError, ConflictError, issuePath, type Logger, silentLogger } from '@common-handlers/core'
import { z } from 'zod'
import { BEAT_MS, type Beat } from './supervised.ts'

export interface OutboxSupervisorOptions {
  /** How many processes. */
  readonly workers: number
  /** Exports `createWorker()`, which gives an `OutboxWorker` that is not started, or a promise of one. */
  readonly module?: string | URL | undefined
  /** In place of `module`: a program that calls {@link supervised} itself. */
  readonly script?: string | URL | undefined
  /** Arguments of the script. */
  readonly args?: readonly string[] | undefined
  /** Options of Node. Default: those of this process. */
  readonly execArgv?: readonly string[] | undefined
  /** The whole environment of the processes. Default: that of this process. */
  readonly env?: Readonly<Record<string, string>> | undefined
  /** From SIGTERM to SIGKILL. Default 15 000. */
  readonly graceMs?: number | undefined
  /** A process whose worker has not begun by then is killed and replaced. Default 30 000. */
  readonly startTimeoutMs?: number | undefined
  /** A process that has been silent for so long hangs: it is killed and replaced. Default 10 000, at least 2000. */
  readonly hangTimeoutMs?: number | undefined
  /** Above it a process that has lived for `stableMs` is replaced, by way of SIGTERM. Default: no limit. */
  readonly maxRssMb?: number | undefined
  /** Wait before a process that ended is replaced; doubles with each one that did not live for `stableMs`. Default 500. */
  readonly backoffBaseMs?: number | undefined
  /** Default 30 000. */
  readonly backoffMaxMs?: number | undefined
  /** A process that lived so long did not fail at once. Default 30 000. */
  readonly stableMs?: number | undefined
  /** Stop on SIGTERM and SIGINT; the second one kills. Default true. */
  readonly signals?: boolean | undefined
  /** Default: silent. */
  readonly logger?: Logger | undefined
}

/** Why a process ended. `exit`: by itself. */
export type EndReason = 'exit' | 'stopped' | 'hung' | 'slow start'

/** What a supervisor tells. */
export interface OutboxSupervisorEvents {
  started: [{ readonly slot: number; readonly pid: number }]
  /** Its worker has begun. */
  ready: [{ readonly slot: number; readonly pid: number }]
  ended: [
    {
      readonly slot: number
      readonly pid: number | undefined
      readonly code: number | null
      readonly signal: NodeJS.Signals | null
      readonly reason: EndReason
      /** When it is replaced; undefined: the supervisor wanted it to end. */
      readonly restartInMs: number | undefined
    },
  ]
  /** It has more memory than it may. */
  heavy: [{ readonly slot: number; readonly pid: number | undefined; readonly rssMb: number }]
}

export interface SupervisedStatus {
  /** 0 to `workers - 1`. */
  readonly slot: number
  /** `waiting`: for the end of its back-off. */
  readonly state: 'starting' | 'running' | 'stopping' | 'waiting' | 'stopped'
  readonly pid: number | undefined
  /** Processes that this slot has had before. */
  readonly restarts: number
  /** Of the last ones, those that did not live for `stableMs`. */
  readonly failures: number
  readonly upMs: number
  /** Since it was last heard of. */
  readonly silentMs: number
  readonly rssMb: number
}

const ms = (fallback: number, least = 1): z.ZodType<number, number | undefined> => z.number().min(least).default(fallback)
const file = z.union([z.string().min(1), z.instanceof(URL)]).optional()
const schema = z
  .strictObject({
    workers: z.int().positive().max(1000),
    module: file,
    script: file,
    args: z.array(z.string()).default([]),
    execArgv: z.array(z.string()).optional(),
    env: z.record(z.string(), z.string()).optional(),
    graceMs: ms(15_000, 0),
    startTimeoutMs: ms(30_000),
    hangTimeoutMs: ms(10_000, 4 * BEAT_MS),
    maxRssMb: z.number().positive().default(Infinity),
    backoffBaseMs: ms(500),
    backoffMaxMs: ms(30_000),
    stableMs: ms(30_000),
    signals: z.boolean().default(true),
  })
  .refine(({ module, script }) => (module === undefined) !== (script === undefined), {
    path: ['module'],
    message: 'either module or script',
  })

type Settings = z.output<typeof schema>

const LOOK_MS = 250

/** Keeps so many processes with workers alive. It holds no connection: what processes had begun when they died, their peers rescue. */
export class OutboxSupervisor extends EventEmitter<OutboxSupervisorEvents> implements AsyncDisposable {
  readonly #settings: Settings
  readonly #slots: readonly Slot[]
  readonly #log: Logger
  readonly #finished = Promise.withResolvers<void>()
  readonly #onSignal = (signal: NodeJS.Signals): void => this.#signalled(signal)
  #timer: NodeJS.Timeout | undefined
  #lookedAt = 0
  #stopped: Promise<void> | undefined
  /** Processes are replaced one after the other. */
  #turn: Promise<void> = Promise.resolve()

  /** Does no work. @throws ConfigError `OUTBOX_CONFIG_INVALID` */
  constructor({ logger, ...options }: OutboxSupervisorOptions) {
    super()
    const { success, data, error } = schema.safeParse(options)
    if (!success) {
      const issues = error.issues.map((issue) => `${issuePath(issue)}: ${issue.message}`)
      throw new ConfigError(`the supervisor cannot be configured: ${issues.join('; ')}`, { code: 'OUTBOX_CONFIG_INVALID' })
    }
    this.#settings = data
    this.#log = logger ?? silentLogger
    this.#slots = Array.from({ length: data.workers }, (_, index) => new Slot(index, data, this, this.#log))
  }

  /** Starts the processes. */
  start(): void {
    if (this.#timer !== undefined || this.#stopped !== undefined)
      throw new ConflictError('a supervisor is started once', { code: 'OUTBOX_SUPERVISOR_STARTED' })
    if (this.#settings.signals) for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, this.#onSignal)
    this.#lookedAt = performance.now()
    this.#timer = setInterval(() => this.#look(), LOOK_MS)
    for (const slot of this.#slots) slot.begin()
  }

  status(): SupervisedStatus[] {
    return this.#slots.map((slot) => slot.status())
  }

  /** When it has stopped, by {@link stop} or a signal. */
  finished(): Promise<void> {
    return this.#finished.promise
  }

  /**
   * Replaces the processes, one after the other: each next one when the worker of the one before has begun.
   * @throws ConflictError `OUTBOX_RESTART_FAILED` where a new one does not begin: the rest is left as it is
   */
  async rollingRestart(): Promise<void> {
    for (const slot of this.#slots) {
      if (await this.#replace(slot)) continue
      throw new ConflictError(`the new process ${slot.index} did not begin its work: the ones after it are the old ones`, {
        code: 'OUTBOX_RESTART_FAILED',
      })
    }
  }

  /** SIGTERM for all, and SIGKILL for those that live on after the grace. */
  stop(): Promise<void> {
    return (this.#stopped ??= this.#stop())
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  async #stop(): Promise<void> {
    clearInterval(this.#timer)
    await Promise.all(this.#slots.map((slot) => slot.stop()))
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.off(signal, this.#onSignal)
    this.#log.info({}, 'the supervisor has stopped')
    this.#finished.resolve()
  }

  #signalled(signal: NodeJS.Signals): void {
    this.#log.info(
      { signal },
      `${signal}: ${this.#stopped === undefined ? 'the processes are stopped' : 'the processes are killed'}`,
    )
    if (this.#stopped !== undefined) for (const slot of this.#slots) slot.kill('stopped')
    else void this.stop()
  }

  #look(): void {
    const now = performance.now()
    // It was this process that did not run: what the others said is still to be read.
    if (now - this.#lookedAt > this.#settings.hangTimeoutMs / 2) for (const slot of this.#slots) slot.heard()
    this.#lookedAt = now
    for (const slot of this.#slots) if (slot.look()) void this.#replace(slot)
  }

  #replace(slot: Slot): Promise<boolean> {
    const replacing = this.#turn.then(async () => {
      if (this.#stopped !== undefined) return false
      await slot.stop()
      // oxlint-disable-next-line typescript/no-unnecessary-condition -- it may have been stopped meanwhile
      if (this.#stopped !== undefined) return false
      slot.begin()
      return await slot.begun()
    })
    this.#turn = replacing.then(() => undefined)
    return replacing
  }
}

/** The place of one process, and the process that has it now. */
class Slot {
  readonly index: number
  readonly #settings: Settings
  readonly #events: EventEmitter<OutboxSupervisorEvents>
  readonly #log: Logger
  #state: SupervisedStatus['state'] = 'stopped'
  #child: ChildProcess | undefined
  #reason: EndReason = 'exit'
  #startedAt = 0
  #heardAt = 0
  #rss = 0
  #processes = 0
  #failures = 0
  #heavy = false
  #timer: NodeJS.Timeout | undefined
  #ready = Promise.withResolvers<boolean>()
  #ended = Promise.withResolvers<void>()

  constructor(index: number, settings: Settings, events: EventEmitter<OutboxSupervisorEvents>, log: Logger) {
    this.index = index
    this.#settings = settings
    this.#events = events
    this.#log = log
  }

  status(): SupervisedStatus {
    const now = performance.now()
    const alive = this.#child !== undefined
    return {
      slot: this.index,
      state: this.#state,
      pid: this.#child?.pid,
      restarts: Math.max(0, this.#processes - 1),
      failures: this.#stable() ? 0 : this.#failures,
      upMs: alive ? Math.round(now - this.#startedAt) : 0,
      silentMs: alive ? Math.round(now - this.#heardAt) : 0,
      rssMb: Math.round(this.#rss / 2 ** 20),
    }
  }

  /** True when its worker has begun, false when its process has ended before. */
  begun(): Promise<boolean> {
    return this.#ready.promise
  }

  begin(): void {
    const { module, script, args, execArgv, env } = this.#settings
    const main = fileURLToPath(new URL(`./supervised-main${extname(import.meta.filename)}`, import.meta.url))
    const [path, argv] = module === undefined ? [script ?? '', args] : [main, [href(module), ...args]]
    const child = fork(path, argv, {
      ...(execArgv === undefined ? {} : { execArgv }),
      ...(env === undefined ? {} : { env }),
      // Signals of a terminal come by way of the supervisor.
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    this.#child = child
    this.#state = 'starting'
    this.#reason = 'exit'
    this.#processes += 1
    this.#startedAt = this.#heardAt = performance.now()
    this.#rss = 0
    this.#heavy = false
    this.#ready = Promise.withResolvers()
    this.#ended = Promise.withResolvers()
    child.on('message', (message) => this.#hear(child, message as Partial<Beat> | null))
    child.once('exit', (code, signal) => this.#end(child, code, signal))
    child.on('error', (error) => {
      this.#log.error({ err: error, slot: this.index }, 'a process could not be started, told or killed')
      if (child.pid === undefined) this.#end(child, null, null)
    })
    if (child.pid !== undefined) this.#events.emit('started', { slot: this.index, pid: child.pid })
  }

  heard(): void {
    this.#heardAt = performance.now()
  }

  /** Kills what hangs. True where the process is to be replaced because of its memory. */
  look(): boolean {
    const { startTimeoutMs, hangTimeoutMs, maxRssMb } = this.#settings
    const now = performance.now()
    if (this.#state === 'starting' && now - this.#startedAt > startTimeoutMs) this.kill('slow start')
    else if (this.#state === 'running' && now - this.#heardAt > hangTimeoutMs) this.kill('hung')
    const rssMb = this.#rss / 2 ** 20
    // Not at once, where every process needs that much.
    if (this.#state !== 'running' || this.#heavy || rssMb <= maxRssMb || !this.#stable()) return false
    this.#heavy = true
    this.#log.warn({ slot: this.index, rssMb: Math.round(rssMb) }, `process ${this.index} has more memory than it may`)
    this.#events.emit('heavy', { slot: this.index, pid: this.#child?.pid, rssMb: Math.round(rssMb) })
    return true
  }

  kill(reason: EndReason): void {
    if (this.#reason === 'exit') this.#reason = reason
    this.#child?.kill('SIGKILL')
  }

  /** Resolves when there is no process any more. */
  async stop(): Promise<void> {
    clearTimeout(this.#timer)
    const child = this.#child
    if (child !== undefined) {
      this.#state = 'stopping'
      this.#reason = 'stopped'
      child.kill('SIGTERM')
      const timer = setTimeout(() => child.kill('SIGKILL'), this.#settings.graceMs)
      await this.#ended.promise
      clearTimeout(timer)
    }
    this.#state = 'stopped'
  }

  #stable(): boolean {
    return this.#child !== undefined && performance.now() - this.#startedAt >= this.#settings.stableMs
  }

  #hear(child: ChildProcess, message: Partial<Beat> | null): void {
    if (message?.outbox !== 'beat' || child !== this.#child) return
    this.heard()
    this.#rss = message.rss ?? 0
    if (message.ready !== true || this.#state !== 'starting' || child.pid === undefined) return
    this.#state = 'running'
    this.#ready.resolve(true)
    this.#log.info({ slot: this.index, pid: child.pid }, `process ${this.index} works`)
    this.#events.emit('ready', { slot: this.index, pid: child.pid })
  }

  #end(child: ChildProcess, code: number | null, signal: NodeJS.Signals | null): void {
    if (child !== this.#child) return
    const { backoffBaseMs, backoffMaxMs } = this.#settings
    const wanted = this.#state === 'stopping'
    const stable = this.#stable()
    this.#child = undefined
    let restartInMs: number | undefined
    if (wanted) this.#state = 'stopped'
    else {
      this.#failures = stable ? 1 : this.#failures + 1
      const waitMs = Math.min(backoffMaxMs, backoffBaseMs * 2 ** Math.min(this.#failures - 1, 30))
      restartInMs = waitMs
      this.#state = 'waiting'
      this.#timer = setTimeout(() => this.begin(), waitMs)
      this.#log.warn(
        { slot: this.index, pid: child.pid, code, signal, reason: this.#reason, restartInMs },
        `process ${this.index} has ended, and is replaced in ${waitMs} ms`,
      )
    }
    this.#ready.resolve(false)
    this.#ended.resolve()
    this.#events.emit('ended', { slot: this.index, pid: child.pid, code, signal, reason: this.#reason, restartInMs })
  }
}

const href = (place: string | URL): string => (place instanceof URL ? place : pathToFileURL(place)).href
