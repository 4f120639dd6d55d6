import { createServer } from 'node:net'
import { ServerStartError } from '../errors.ts'

// Below the range from which systems give ports to outgoing connections: a server that is down
// for a moment in a fault test must find its port free when it comes back.
const lowest = 20_000
const highest = 32_000
const given = new Set<number>()

/** Free ports of the loopback interface, no two the same in this process. */
export async function freePorts(count: number): Promise<number[]> {
  const ports: number[] = []
  while (ports.length < count) {
    const port = lowest + Math.floor(Math.random() * (highest - lowest))
    if (given.has(port) || !(await isFree(port))) continue
    given.add(port)
    ports.push(port)
  }
  return ports
}

/** Starts a server on free ports, and again on others if somebody was quicker to take one. */
export async function onFreePorts<T>(count: number, start: (ports: readonly number[]) => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await start(await freePorts(count))
    } catch (error) {
      const taken = error instanceof ServerStartError && /address already in use|failed to bind|eaddrinuse/i.test(error.logTail)
      if (!taken || attempt === 3) throw error
    }
  }
}

async function isFree(port: number): Promise<boolean> {
  return await new Promise((resolve) => {
    const probe = createServer()
    probe.once('error', () => resolve(false))
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)))
  })
}
