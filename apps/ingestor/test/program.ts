import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { runApp } from '@common-handlers/cli'
import { ingestorApp, type IngestorConfigInput } from '../src/index.ts'

export interface Outcome {
  readonly code: number | NodeJS.Signals
  readonly stdout: string
  readonly log: string
}

export interface Running {
  readonly child: ChildProcess
  readonly ended: Promise<Outcome>
}

/** Runs a command in this process. */
export async function call(
  argv: readonly string[],
  config: IngestorConfigInput,
  signal: AbortSignal = new AbortController().signal,
): Promise<Outcome> {
  await using file = await configFile(config)
  let stdout = ''
  let log = ''
  const terminal = {
    argv: [...argv, '--config', file.path],
    env: {},
    stdout: { write: (text: string) => (stdout += text) },
    stderr: { write: (text: string) => (log += text) },
  }
  const code = await runApp(ingestorApp, terminal, signal)
  return { code, stdout, log }
}

/** Runs a command as a process of its own; through a shell with settings of its own, where given. */
export async function start(argv: readonly string[], config: IngestorConfigInput, shell?: string): Promise<Running> {
  const file = await configFile(config)
  const main = join(import.meta.dirname, '../src/main.ts')
  const command = [process.execPath, '--conditions=@common-handlers/source', main, ...argv, '--config', file.path]
  const [program = '', ...args] = shell === undefined ? command : ['sh', '-c', `${shell}; exec "$@"`, 'sh', ...command]
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let stdout = ''
  let log = ''
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (log += chunk.toString()))
  const ended = new Promise<Outcome>((resolve) => {
    child.once('close', (code, signal) => {
      void file[Symbol.asyncDispose]()
      resolve({ code: code ?? signal ?? 1, stdout, log })
    })
  })
  return { child, ended }
}

async function configFile(config: IngestorConfigInput): Promise<{ readonly path: string } & AsyncDisposable> {
  const folder = await mkdtemp(join(tmpdir(), 'ingestor-'))
  const path = join(folder, 'ingestor.json')
  await writeFile(path, JSON.stringify(config), { mode: 0o600 })
  return { path, [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }) }
}

/** Waits until something is so; the test's own time limit ends it. */
export async function until(condition: () => Promise<boolean> | boolean): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 50))
}
