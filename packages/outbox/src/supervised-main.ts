import { supervised, type Supervisable } from './supervised.ts'

// The process of a worker that a module makes: its URL is the first argument.

const [, , url = ''] = process.argv
const { createWorker } = (await import(url)) as { readonly createWorker?: () => Supervisable | Promise<Supervisable> }
if (createWorker === undefined) throw new Error(`${url} exports no function createWorker`)
await supervised(await createWorker())
