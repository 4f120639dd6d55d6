import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { withLock } from '../src/provision/cache.ts'

const run = promisify(execFile)

export const root: string = join(import.meta.dirname, '../../..')

/** The pnpm that runs this script, or the one that npm brings. */
const pnpm: readonly string[] =
  process.env['npm_execpath']?.includes('pnpm') === true ? [process.env['npm_execpath']] : ['npx', '-y', 'pnpm@12']

export async function callPnpm(cwd: string, ...args: string[]): Promise<void> {
  const [command = 'npx', ...before] = pnpm
  await run(command, [...before, ...args], { cwd, env: { ...process.env, CI: 'true' }, maxBuffer: 64 * 1024 * 1024 })
}

/** Builds all packages; test files that run at the same time wait for each other, for `tsc -b` writes in place. */
export async function buildWorkspace(): Promise<void> {
  await withLock(join(root, 'node_modules/.workspace-build.lock'), async () => {
    await run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-b'], { cwd: root })
  })
}
