import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { runApp } from '@common-handlers/cli'
import { silentLogger } from '@common-handlers/core'
import { listRuns, type Manifest, readManifest } from '@common-handlers/dataset'
import type { ObjectStore } from '@common-handlers/storage'
import { createDatabase, type PostgresAddress, type S3Address } from '@common-handlers/testkit'
import pg from 'pg'
import { extractorApp, type ExtractorConfigInput } from '../src/index.ts'
import { openStore } from '../src/store.ts'
import { extractorConfigSchema } from '../src/config.ts'

/** Some keys of a configuration; the rest is filled in by the harness. */
export type Settings = Omit<Partial<ExtractorConfigInput>, 'source'> & { readonly source: ExtractorConfigInput['source'] }

export interface Outcome {
  readonly code: number
  /** The result as JSON. */
  // oxlint-disable-next-line typescript/no-explicit-any -- tests look into it
  readonly result: Record<string, any>
  readonly log: string
}

/** A database, a store and the extractor between them. */
export interface Setup extends AsyncDisposable {
  readonly database: PostgresAddress
  readonly store: ObjectStore
  readonly client: pg.Client
  /** A connection more. */
  connect(): Promise<pg.Client>
  sql(text: string, values?: unknown[]): Promise<Record<string, unknown>[]>
  config(settings: Settings): ExtractorConfigInput
  /** Runs a command in this process. */
  call(command: string | string[], settings: Settings, signal?: AbortSignal): Promise<Outcome>
  /** Runs a command as a process of its own. */
  spawn(command: string, settings: Settings): Promise<Running>
  /** Every committed run, oldest first. */
  manifests(): Promise<Manifest[]>
}

export interface Running {
  readonly child: ChildProcess
  /** The exit code, or the signal that ended it. */
  readonly ended: Promise<{ readonly code: number | NodeJS.Signals; readonly stdout: string; readonly log: string }>
}

export const dataset = 'audit_log'

/** With an S3 server the store is a prefix of its bucket of our own, else a folder. */
export async function setUp(postgres: PostgresAddress, s3?: S3Address): Promise<Setup> {
  const folder = await mkdtemp(join(tmpdir(), 'extractor-'))
  const database = await createDatabase(postgres, 'extractor')
  const clients: pg.Client[] = []
  const connect = async (): Promise<pg.Client> => {
    const { host, port, user, password, database: name } = database
    const one = new pg.Client({ host, port, user, password, database: name })
    one.on('error', () => undefined)
    await one.connect()
    clients.push(one)
    return one
  }
  const client = await connect()
  const where =
    s3 === undefined ? { store: pathToFileURL(join(folder, 'landing')).href } : s3Settings(s3, `extractor-${database.database}`)
  const config = (settings: Settings): ExtractorConfigInput => ({
    dataset,
    ...where,
    postgres: {
      host: database.host,
      port: database.port,
      user: database.user,
      password: database.password,
      database: database.database,
    },
    ...settings,
  })
  const { objects: store } = openStore(extractorConfigSchema.parse(config({ source: { table: 'none' } })), silentLogger)
  const file = join(folder, 'extractor.json')
  const write = (settings: Settings): Promise<void> => writeFile(file, JSON.stringify(config(settings)), { mode: 0o600 })
  return {
    database,
    store,
    client,
    connect,
    config,
    sql: async (text, values) => (await client.query<Record<string, unknown>>(text, values)).rows,
    call: async (command, settings, signal = new AbortController().signal) => {
      await write(settings)
      let out = ''
      let log = ''
      const terminal = {
        argv: [...[command].flat(), '--config', file],
        env: {},
        stdout: { write: (text: string) => (out += text) },
        stderr: { write: (text: string) => (log += text) },
      }
      const code = await runApp(extractorApp, terminal, signal)
      return { code, result: out === '' ? {} : (JSON.parse(out) as Outcome['result']), log }
    },
    spawn: async (command, settings) => {
      await write(settings)
      const main = join(import.meta.dirname, '../src/main.ts')
      const argv = ['--conditions=@common-handlers/source', main, command, '--config', file]
      const child = spawn(process.execPath, argv, { stdio: ['ignore', 'pipe', 'pipe'] })
      let stdout = ''
      let log = ''
      child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()))
      child.stderr.on('data', (chunk: Buffer) => (log += chunk.toString()))
      const ended = new Promise<Awaited<Running['ended']>>((resolve) => {
        child.once('close', (code, signal) => resolve({ code: code ?? signal ?? 1, stdout, log }))
      })
      return { child, ended }
    },
    manifests: async () => {
      const runs = await listRuns(store, dataset)
      return Promise.all(runs.filter((run) => run.committed).map((run) => readManifest(store, dataset, run.runId)))
    },
    [Symbol.asyncDispose]: async () => {
      for await (const { key } of store.list(`${dataset}/`)) await store.delete(key)
      await store.close()
      await Promise.allSettled(clients.map((one) => one.end()))
      await database.drop()
      await rm(folder, { recursive: true, force: true })
    },
  }
}

export function s3Settings(s3: S3Address, prefix: string): Pick<ExtractorConfigInput, 'store' | 's3'> {
  const { endpoint, region, accessKeyId, secretAccessKey, bucket } = s3
  return { store: `s3://${bucket}/${prefix}`, s3: { endpoint, region, accessKeyId, secretAccessKey } }
}

/** Waits until something is so; the test's own time limit ends it. */
export async function until(condition: () => Promise<boolean> | boolean): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 20))
}
