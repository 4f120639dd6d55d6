import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { open, readFile, stat, unlink } from 'node:fs/promises'
import { hostname } from 'node:os'
import { sleep } from '@common-handlers/core'

/** Who holds a lock or writes a file: enough to find out later whether that process still lives. */
export interface Owner {
  readonly host: string
  readonly pid: number
  /** When the process began, in the clock ticks of /proc; '' where there is no /proc. Tells a pid from its reuse. */
  readonly started: string
}

/** A lock whose owner cannot be asked (another host) is taken for left behind after this time; it is held for milliseconds. */
const FOREIGN_LIFETIME_MS = 60_000

function startOf(pid: number): string {
  try {
    // The command in brackets may hold blanks: fields count from behind it. The 20th is the start time.
    return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ')[19] ?? ''
  } catch {
    return ''
  }
}

export const thisProcess: Owner = { host: hostname(), pid: process.pid, started: startOf(process.pid) }

/** True when the process is known to have ended; false when it lives; undefined when it cannot be known from here. */
export function hasEnded({ host, pid, started }: Owner): boolean | undefined {
  if (host !== thisProcess.host) return undefined
  try {
    process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH'
  }
  const now = startOf(pid)
  return started !== '' && now !== '' && now !== started
}

/**
 * Runs work while holding a lock file, waiting for whoever holds it. Returns `{ held: false }` when the wait took longer
 * than `waitMs`. A lock left behind by a dead process is removed; that is done under a lock of its own
 * (`<file>.break`), so that no living owner's lock can be removed by two who saw the same dead one.
 */
export async function withLock<T>(
  file: string,
  options: { readonly waitMs: number; readonly signal?: AbortSignal | undefined },
  work: () => Promise<T>,
): Promise<{ readonly held: true; readonly value: T } | { readonly held: false }> {
  const end = performance.now() + options.waitMs
  const content = JSON.stringify({ ...thisProcess, token: randomBytes(8).toString('hex') })
  while (!(await tryLock(file, content))) {
    options.signal?.throwIfAborted()
    if (await breakDead(file, options.signal)) continue
    if (performance.now() > end) return { held: false }
    await sleep(2 + Math.random() * 8, options.signal)
  }
  try {
    return { held: true, value: await work() }
  } finally {
    await unlink(file)
  }
}

async function tryLock(file: string, content: string): Promise<boolean> {
  try {
    const handle = await open(file, 'wx')
    try {
      await handle.writeFile(content)
    } catch (error) {
      await unlink(file).catch(() => undefined)
      throw error
    } finally {
      await handle.close()
    }
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  }
}

/** The content of a lock that was left behind; undefined while it is held, or when there is none any more. */
async function deadContent(file: string): Promise<string | undefined> {
  try {
    const { mtimeMs } = await stat(file)
    const content = await readFile(file, 'utf8')
    const old = Date.now() - mtimeMs > FOREIGN_LIFETIME_MS
    // Empty: its owner is between creating and writing it, or died there.
    const ended = content === '' ? undefined : hasEnded(JSON.parse(content) as Owner)
    return (ended ?? old) ? content : undefined
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT' || error instanceof SyntaxError) return undefined
    throw error
  }
}

async function breakDead(file: string, signal: AbortSignal | undefined): Promise<boolean> {
  const seen = await deadContent(file)
  if (seen === undefined) return false
  const broken = await withLock(`${file}.break`, { waitMs: 1_000, signal }, async () => {
    if ((await deadContent(file)) !== seen) return false
    await unlink(file)
    return true
  })
  return broken.held && broken.value
}
