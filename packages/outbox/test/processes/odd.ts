import { supervised } from '../../src/index.ts'

// Processes that do not do as a supervisor wants.

const [, , mode] = process.argv
const held: Buffer[] = []
if (mode === 'exit') process.exit(3)
await supervised({
  start: async () => {
    if (mode === 'heavy') held.push(Buffer.alloc(200 * 2 ** 20, 1))
    if (mode === 'never') await new Promise(() => setInterval(() => undefined, 1000))
  },
  stop: async () => {
    if (mode === 'stubborn') await new Promise(() => setInterval(() => undefined, 1000))
  },
})
setInterval(() => held.length, 60_000)
