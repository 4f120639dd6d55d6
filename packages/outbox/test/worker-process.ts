import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { PostgresAddress } from '@common-handlers/testkit'
import type { WorkerJob } from './worker-process-main.ts'

/** A worker in a process of its own, which may be killed, or kill itself. */
export interface WorkerProcess {
  /** How it ended: `SIGKILL`, or its exit code as text. */
  readonly ended: Promise<string>
  /** Resolves when it has said this line. */
  says(line: string): Promise<void>
  kill(): void
}

export function startWorkerProcess(server: PostgresAddress, job: Omit<WorkerJob, 'connection'>): WorkerProcess {
  const { host, port, user, password, database } = server
  const whole: WorkerJob = { connection: { host, port, user, password, database }, ...job }
  const main = fileURLToPath(new URL('worker-process-main.ts', import.meta.url))
  const child = spawn(process.execPath, ['--conditions=@common-handlers/source', main], { stdio: ['pipe', 'pipe', 'inherit'] })
  child.stdin.end(JSON.stringify(whole))
  const said = new Set<string>()
  const waiting = new Map<string, () => void>()
  createInterface({ input: child.stdout }).on('line', (line) => {
    said.add(line)
    waiting.get(line)?.()
  })
  const ended = once(child, 'exit').then(([code, signal]: (number | string | null)[]) => String(signal ?? code))
  return {
    ended,
    says: async (line) => {
      if (said.has(line)) return
      const inTime = new Promise<void>((resolve) => void waiting.set(line, resolve))
      const tooEarly = ended.then((how) =>
        Promise.reject(new Error(`the worker process ended with ${how} and did not say: ${line}`)),
      )
      await Promise.race([inTime, tooEarly])
    },
    kill: () => void child.kill('SIGKILL'),
  }
}
