// What each measured system has, in the process of its own: the database, the peers, the messages.
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import pg from 'pg'

const { BENCH_URL, BENCH_PEERS } = process.env
export const connectionString = BENCH_URL
export const pool = new pg.Pool({ connectionString, max: 20 })
// graphile-worker wants both to be listened to.
pool.on('error', () => undefined)
pool.on('connect', (client) => client.on('error', () => undefined))

/** A peer out of the folder that it was installed into. */
export async function peer(name) {
  const require = createRequire(join(BENCH_PEERS, 'package.json'))
  return import(pathToFileURL(require.resolve(name)).href)
}

/** Of 200 bytes. */
export const payload = (n) => ({ n, text: 'x'.repeat(180) })
