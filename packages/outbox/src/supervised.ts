/** What a supervised process tells its supervisor, four times in the shortest silence that this may take for death. */
export interface Beat {
  readonly outbox: 'beat'
  /** The worker has begun. */
  readonly ready: boolean
  readonly rss: number
}

export const BEAT_MS = 500

/** `OutboxWorker`, or what is started and stopped like it. */
export interface Supervisable {
  start(): Promise<void>
  stop(options?: { readonly graceMs?: number }): Promise<void>
}

export interface SupervisedOptions {
  /** What handlers that run have left when the process is told to stop. Less than the supervisor's. Default 10 000. */
  readonly graceMs?: number | undefined
  /** After the worker has stopped: pools are closed here. */
  readonly onStop?: (() => Promise<void> | void) | undefined
}

/**
 * Runs a worker as the work of this process: starts it, tells the supervisor that it lives, stops it on SIGTERM, or
 * when the supervisor is gone, and ends the process. Without a supervisor SIGINT stops it too.
 * @returns when the worker has begun
 * @throws what `start` throws: let the process die of it
 */
export async function supervised(worker: Supervisable, options: SupervisedOptions = {}): Promise<void> {
  const { graceMs = 10_000, onStop } = options
  let ready = false
  let stopping = false
  const beat = (): void => {
    if (!process.connected) return
    const message: Beat = { outbox: 'beat', ready, rss: process.memoryUsage.rss() }
    // It may be gone at this moment: then `disconnect` follows.
    process.send?.(message, () => undefined)
  }
  const stop = async (): Promise<void> => {
    if (stopping) return
    stopping = true
    let code = 0
    try {
      await worker.stop({ graceMs })
      await onStop?.()
    } catch {
      code = 1
    }
    // Sockets of pools that are idle would keep it for a while.
    process.exit(code)
  }
  const underSupervision = process.connected
  process.on('SIGTERM', () => void stop())
  // A terminal sends it to the whole group: the supervisor says what it means.
  process.on('SIGINT', () => void (underSupervision ? undefined : stop()))
  process.once('disconnect', () => void stop())
  beat()
  setInterval(beat, BEAT_MS).unref()
  await worker.start()
  ready = true
  beat()
}
