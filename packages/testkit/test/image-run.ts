import { randomBytes } from 'node:crypto'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { engineRun } from '../src/containers/engine.ts'
import type { EngineAddress } from '../src/servers/addresses.ts'
import { engineOutput, imageTag, locked } from './image-build.ts'

export interface Ended {
  readonly code: number
  /** The result as JSON, where there is one. */
  // oxlint-disable-next-line typescript/no-explicit-any -- tests look into it
  readonly result: any
  readonly log: string
}

/** A container that was started and goes on. */
export interface RunningContainer extends AsyncDisposable {
  readonly name: string
  /** Sends SIGTERM, and SIGKILL where it has not ended after 10 seconds, as an orchestrator does. */
  stop(): Promise<void>
  /** Runs a command in it. */
  exec(...command: string[]): Promise<{ readonly code: number; readonly stdout: string }>
  /** Waits for its end, 90 s if not told otherwise. @throws with its log if it goes on */
  ended(waitMs?: number): Promise<Ended>
}

export interface RunOptions {
  readonly env?: Readonly<Record<string, string>>
  /** Further options of `run`. */
  readonly with?: readonly string[]
  /** With this much memory and not a byte more: `256m`. */
  readonly memory?: string
}

/** A folder of files that containers read as /run/secrets, whatever their user. */
export async function secretFiles(files: Readonly<Record<string, string>>): Promise<AsyncDisposable & { readonly path: string }> {
  const path = await mkdtemp(join(tmpdir(), 'image-secrets-'))
  await chmod(path, 0o755)
  for (const [name, content] of Object.entries(files)) await writeFile(join(path, name), content, { mode: 0o444 })
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) }
}

/** Starts a container of an app's image, as restricted as a cluster may run it. */
export async function startImage(
  engine: EngineAddress,
  app: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<RunningContainer> {
  const name = `common-handlers-${app}-${randomBytes(4).toString('hex')}`
  const limit = options.memory === undefined ? [] : [`--memory=${options.memory}`, `--memory-swap=${options.memory}`]
  const env = Object.entries(options.env ?? {}).flatMap(([key, value]) => ['--env', `${key}=${value}`])
  const run = options.memory === undefined ? ['run'] : engine.limitedRun
  const own = ['--detach', '--name', name, ...locked, ...limit, ...env, ...(options.with ?? [])]
  await engineOutput(engine, ...run, ...own, imageTag(app), ...args)
  return {
    name,
    async stop() {
      await engineOutput(engine, 'stop', '--time', '10', name)
    },
    exec: (...command) => engineRun(engine, ['exec', name, ...command]),
    async ended(waitMs = 90_000) {
      const waited = await engineRun(engine, ['wait', name], { signal: AbortSignal.timeout(waitMs) }).catch(
        (error: Error) => error,
      )
      const { stdout, stderr } = await engineRun(engine, ['logs', name])
      if (waited instanceof Error || waited.code !== 0) throw new Error(`${name} does not end:\n${stderr.slice(-3000)}`)
      const code = Number(waited.stdout.trim())
      const last = stdout.trim().split('\n').at(-1) ?? ''
      return { code, result: /^[{[]/.test(last) ? (JSON.parse(last) as unknown) : undefined, log: stderr }
    },
    [Symbol.asyncDispose]: async () => void (await engineRun(engine, ['rm', '--force', '--time', '0', name])),
  }
}
