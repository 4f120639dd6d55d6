import { execFile } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { promisify } from 'node:util'

// Packs every public package as it would be published and lets publint and attw read the tarballs.

const run = promisify(execFile)
const root = join(import.meta.dirname, '..')
const pnpm = process.env['npm_execpath'] ?? 'pnpm'
const bin = (name: string): string => join(root, 'node_modules/.bin', name)

const packages = join(root, 'packages')
const connectors = (await readdir(join(packages, 'connectors'))).map((name) => join(packages, 'connectors', name))
const folders = (await readdir(packages)).filter((name) => name !== 'connectors').map((name) => join(packages, name))

const folder = await mkdtemp(join(tmpdir(), 'packages-'))
let failed = false
try {
  for (const cwd of [...folders, ...connectors].toSorted()) {
    const name = basename(cwd)
    const manifest = JSON.parse(await readFile(join(cwd, 'package.json'), 'utf8')) as { readonly private?: boolean }
    if (manifest.private === true) continue
    await run(pnpm, ['pack', '--pack-destination', folder], { cwd })
    const tarball = (await readdir(folder)).find((file) => file.startsWith(`common-handlers-${name}-0`))
    if (tarball === undefined) throw new Error(`${name}: pnpm pack made no tarball`)
    const problems: string[] = []
    for (const [tool, ...args] of [
      ['publint', 'run', join(folder, tarball), '--strict'],
      ['attw', join(folder, tarball), '--profile', 'esm-only', '--no-emoji', '--format', 'ascii'],
    ] as const) {
      await run(bin(tool), args, { cwd }).catch((error: { stdout?: string; stderr?: string }) => {
        problems.push(`${tool}:\n${error.stdout ?? ''}${error.stderr ?? ''}`)
      })
    }
    failed ||= problems.length > 0
    process.stdout.write(`${name}: ${problems.length === 0 ? 'fine' : problems.join('\n')}\n`)
  }
} finally {
  await rm(folder, { recursive: true, force: true })
}
process.exitCode = failed ? 1 : 0
