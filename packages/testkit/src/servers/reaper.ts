import { spawn, type ChildProcess } from 'node:child_process'
import { Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import { childEnvironment } from '../config.ts'

/** A line to the reaper process. */
export type ReaperOrder =
  | { readonly do: 'watch-place'; readonly place: string }
  | { readonly do: 'forget-place'; readonly place: string }
  | { readonly do: 'watch-process'; readonly pid: number }
  | { readonly do: 'forget-process'; readonly pid: number }

let child: ChildProcess | undefined

/**
 * Tells the reaper what this process has started. The reaper is a small process of its own whose standard input is a
 * pipe from here: at its end, a `kill -9` of this process included, it stops what is still on its list.
 */
export function tellReaper(order: ReaperOrder): void {
  child ??= startReaper()
  child.stdin?.write(`${JSON.stringify(order)}\n`)
}

function startReaper(): ChildProcess {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  const main = fileURLToPath(new URL(`./reaper-main.${extension}`, import.meta.url))
  const started = spawn(process.execPath, [main], {
    stdio: ['pipe', 'ignore', 'inherit'],
    env: childEnvironment(),
    // A session of its own: Ctrl-C in a terminal must not end the reaper before its work.
    detached: true,
  })
  started.on('error', () => undefined)
  started.stdin.on('error', () => undefined)
  // Neither may keep this process alive.
  started.unref()
  if (started.stdin instanceof Socket) started.stdin.unref()
  return started
}
