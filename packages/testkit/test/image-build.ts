import { createHash } from 'node:crypto'
import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import type { EngineAddress } from '../src/servers/addresses.ts'
import { engineRun } from '../src/containers/engine.ts'
import { withLock } from '../src/provision/cache.ts'
import { root } from './workspace-build.ts'

/** An app that has an image: a further one joins this table. */
export interface ImageCase {
  readonly app: string
  readonly program: string
  readonly handlers: readonly string[]
}

export const images: readonly ImageCase[] = [
  { app: 'extractor', program: 'audit-log-extractor', handlers: ['postgres-handler', 's3-handler', 'vault-handler'] },
  { app: 'ingestor', program: 'iceberg-ingestor', handlers: ['s3-handler', 'trino-handler', 'vault-handler'] },
]

/** Of this checkout: one beside it, built at the same time, has images of its own. */
const checkout = createHash('sha256').update(root).digest('hex').slice(0, 8)
export const imageTag = (app: string, suffix = ''): string => `localhost/common-handlers/${app}:test-${checkout}${suffix}`

/** What a command of the engine wrote to stdout. @throws if it fails. */
export async function engineOutput(engine: EngineAddress, ...args: string[]): Promise<string> {
  // Not in this folder: a container that is killed for its memory leaves a file `oom` where it was started.
  const { code, stdout, stderr } = await engineRun(engine, args, { cwd: tmpdir() })
  if (code !== 0) throw new Error(`${args.join(' ')} ended with ${code}:\n${stdout.slice(-3000)}\n${stderr.slice(-3000)}`)
  return stdout
}

/** Builds one image and returns what the builder said. */
export async function buildImage(
  engine: EngineAddress,
  app: string,
  { tag = imageTag(app), folder = root, options = [] }: BuildOptions = {},
): Promise<string> {
  const file = join(folder, `docker/${app}.Dockerfile`)
  const args = ['build', ...engine.buildOptions, ...options, '-f', file, '-t', tag, folder]
  const { code, stdout, stderr } = await engineRun(engine, args, { cwd: tmpdir() })
  if (code !== 0) throw new Error(`${app} cannot be built:\n${stdout.slice(-3000)}\n${stderr.slice(-3000)}`)
  return `${stdout}\n${stderr}`
}

export interface BuildOptions {
  readonly tag?: string
  /** What it is built from, in the place of this checkout. */
  readonly folder?: string
  /** Further options of `build`. */
  readonly options?: readonly string[]
}

/** A copy of this checkout as a clone has it, to change and to build from. */
export async function copySources(): Promise<AsyncDisposable & { readonly path: string }> {
  const path = await mkdtemp(join(tmpdir(), 'image-sources-'))
  const made = new Set(['node_modules', 'dist', '.git', '.demo'])
  await cp(root, path, { recursive: true, filter: (from) => !made.has(basename(from)) })
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) }
}

/** The digest of the layer that holds /app, the last one. Docker's also holds the times of the build: there it is that of the files. */
export async function appDigest(engine: EngineAddress, tag: string): Promise<string> {
  if (engine.name === 'docker') {
    const files = 'tar --sort=name --mtime=@0 -C / -cf - app | sha256sum'
    return await engineOutput(engine, 'run', '--rm', ...locked, '--no-healthcheck', '--entrypoint', 'sh', tag, '-c', files)
  }
  const layers = await engineOutput(engine, 'image', 'inspect', '--format', '{{json .RootFS.Layers}}', tag)
  return (JSON.parse(layers) as readonly string[]).at(-1) ?? ''
}

/**
 * Builds all images. One after the other, as the second finds all but its last layers; a test file that comes while another
 * one builds waits, and finds everything.
 */
export async function buildImages(engine: EngineAddress, folder = root): Promise<void> {
  await withLock(join(root, 'node_modules/.image-build.lock'), async () => {
    for (const { app } of images) await buildImage(engine, app, { folder })
  })
}

/** As restricted as a cluster may run it: no rights, nothing to write to, a user that no image knows. */
export const locked: readonly string[] = [
  '--network=host',
  '--read-only',
  '--cap-drop=all',
  '--security-opt=no-new-privileges',
  '--user=1234567:0',
]
