import { OutboxSupervisor } from '../../src/index.ts'

// A program that is a supervisor: tells the ids of its processes when their workers have begun.

const supervisor = new OutboxSupervisor({ workers: 2, module: new URL('worker.ts', import.meta.url) })
supervisor.on('ready', () => {
  const pids = supervisor.status().map(({ pid }) => pid)
  if (supervisor.status().every(({ state }) => state === 'running')) process.send?.(pids)
})
supervisor.start()
await supervisor.finished()
process.disconnect()
