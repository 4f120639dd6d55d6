import { rm } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import type { ReaperOrder } from './reaper.ts'

// See reaper.ts. Everything else that could end this process first is ignored: it lives as long as its parent.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined)

const processes = new Set<number>()
const places = new Set<string>()

for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line) as ReaperOrder
  if (order.do === 'watch-process') processes.add(order.pid)
  else if (order.do === 'forget-process') processes.delete(order.pid)
  else if (order.do === 'watch-place') places.add(order.place)
  else places.delete(order.place)
}

for (const pid of processes) {
  // A server leads a process group, so that its children go with it.
  for (const target of [-pid, pid]) {
    try {
      process.kill(target, 'SIGKILL')
    } catch {
      // It is gone already.
    }
  }
}
for (const place of places) await rm(place, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 })
