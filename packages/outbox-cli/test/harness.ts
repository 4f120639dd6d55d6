import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { runApp } from '@common-handlers/cli'
import { createDatabase, type PostgresAddress } from '@common-handlers/testkit'
import pg from 'pg'
import { afterAll, beforeAll } from 'vitest'
import { outboxApp } from '../src/index.ts'

const main = join(import.meta.dirname, '../src/main.ts')

export interface Ended {
  readonly code: number | null
  readonly out: string
  /** What was logged, a JSON line each. */
  readonly log: readonly Record<string, unknown>[]
  /** The result that was printed. */
  // oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- the caller knows what it asked for
  json<T = Record<string, unknown>>(): T
}

export interface Running {
  readonly ended: Promise<Ended>
  readonly log: () => readonly Record<string, unknown>[]
  kill(signal: NodeJS.Signals): void
}

export interface OwnDatabase {
  readonly url: string
  readonly address: PostgresAddress
  readonly pool: pg.Pool
  /** Starts the program as a process of its own, with DATABASE_URL. */
  start(argv: readonly string[], env?: Readonly<Record<string, string>>): Running
  /** Runs it in this process, to its end. */
  run(...argv: string[]): Promise<Ended>
  one<T>(text: string): Promise<T>
}

function parsed(out: string): Ended['json'] {
  // oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- as above
  return <T>() => JSON.parse(out) as T
}

/** A database without an outbox, and the program that is given its address. */
export function ownDatabase(server: PostgresAddress): OwnDatabase {
  let database: Awaited<ReturnType<typeof createDatabase>> | undefined
  let pool: pg.Pool | undefined
  const running = new Set<{ kill(signal: NodeJS.Signals): unknown }>()
  const ready = <T>(value: T | undefined): T => {
    if (value === undefined) throw new Error('asked for before beforeAll')
    return value
  }
  const urlOf = ({ user, password, host, port, database: name }: PostgresAddress): string =>
    `postgres://${user}:${encodeURIComponent(password)}@${host}:${port}/${name}`
  beforeAll(async () => {
    database = await createDatabase(server, 'outbox_cli')
    pool = new pg.Pool({ connectionString: urlOf(database), max: 5 })
    pool.on('error', () => undefined)
  })
  afterAll(async () => {
    for (const child of running) child.kill('SIGKILL')
    await pool?.end()
    await database?.drop()
  })
  const start: OwnDatabase['start'] = (argv, env = {}) => {
    const { PATH = '' } = process.env
    const child = spawn(process.execPath, ['--conditions=@common-handlers/source', main, ...argv], {
      env: { PATH, DATABASE_URL: urlOf(ready(database)), ...env },
    })
    running.add(child)
    let out = ''
    let err = ''
    child.stdout.on('data', (data: Buffer) => (out += data.toString()))
    child.stderr.on('data', (data: Buffer) => (err += data.toString()))
    const log = (): Record<string, unknown>[] =>
      err
        .split('\n')
        .filter((line) => line.startsWith('{'))
        .map((line) => JSON.parse(line) as Record<string, unknown>)
    const ended = once(child, 'close').then(([code]): Ended => {
      running.delete(child)
      return { code: code as number | null, out: out + err, log: log(), json: parsed(out) }
    })
    return { ended, log, kill: (signal) => void child.kill(signal) }
  }
  return {
    get url() {
      return urlOf(ready(database))
    },
    get address() {
      return ready(database)
    },
    get pool() {
      return ready(pool)
    },
    start,
    async run(...argv) {
      let out = ''
      let err = ''
      const terminal = {
        argv,
        env: { OUTBOX_URL: urlOf(ready(database)) },
        stdout: { write: (text: string) => (out += text) },
        stderr: { write: (text: string) => (err += text) },
      }
      const code = await runApp(outboxApp, terminal, new AbortController().signal)
      return { code, out: out + err, log: [], json: parsed(out) }
    },
    async one<T>(text: string) {
      const { rows } = await ready(pool).query<unknown[]>({ text, rowMode: 'array' })
      return rows[0]?.[0] as T
    },
  }
}
