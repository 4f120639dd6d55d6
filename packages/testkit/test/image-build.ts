import { tmpdir } from 'node:os'
import { join } from 'node:path'
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

export const imageTag = (app: string, tag = 'test'): string => `localhost/common-handlers/${app}:${tag}`

/** What a command of the engine wrote to stdout. @throws if it fails. */
export async function engineOutput(engine: EngineAddress, ...args: string[]): Promise<string> {
  // Not in this folder: a container that is killed for its memory leaves a file `oom` where it was started.
  const { code, stdout, stderr } = await engineRun(engine, args, { cwd: tmpdir() })
  if (code !== 0) throw new Error(`${args.join(' ')} ended with ${code}:\n${stdout.slice(-3000)}\n${stderr.slice(-3000)}`)
  return stdout
}

/** Builds one image from a folder and returns what the builder said. */
export async function buildImage(engine: EngineAddress, app: string, tag = imageTag(app), folder = root): Promise<string> {
  const file = join(folder, `docker/${app}.Dockerfile`)
  return await engineOutput(engine, 'build', ...engine.buildOptions, '-f', file, '-t', tag, folder)
}

/**
 * Builds all images. One after the other, as the second finds all but its last layers; a test file that comes while another
 * one builds waits, and finds everything.
 */
export async function buildImages(engine: EngineAddress): Promise<void> {
  await withLock(join(root, 'node_modules/.image-build.lock'), async () => {
    for (const { app } of images) await buildImage(engine, app)
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
