import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { childEnvironment } from '../config.ts'
import type { KeeperAddress } from './keeper-protocol.ts'

export interface Keeper {
  readonly address: KeeperAddress
  readonly pid: number
  /** Stops all its servers, and ends when they are gone. */
  stop(): Promise<void>
}

/** Starts the process that starts and stops the servers of a test run. */
export async function startKeeper(): Promise<Keeper> {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  const main = fileURLToPath(new URL(`./keeper-main.${extension}`, import.meta.url))
  const child = spawn(process.execPath, [main], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: childEnvironment(),
    // Ctrl-C is for the runner; the keeper sees that the runner is gone, and tidies up.
    detached: true,
  })
  const exited = once(child, 'exit')
  const [line] = await Promise.race([
    once(createInterface({ input: child.stdout }), 'line') as Promise<[string]>,
    exited.then(([code]) => {
      throw new Error(`the keeper of the servers ended with ${code} before it was ready`)
    }),
  ])
  child.stdin.on('error', () => undefined)
  return {
    address: JSON.parse(line) as KeeperAddress,
    pid: child.pid ?? 0,
    async stop() {
      child.stdin.end()
      await exited
    },
  }
}
