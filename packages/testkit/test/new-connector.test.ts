import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { cp, mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { root } from './workspace-build.ts'

// `pnpm new connector` in a copy of the repository: what it makes stands there at once.

const run = promisify(execFile)
let copy: string

/** Runs a program of Node in the copy; gives what it said, also where it failed. */
async function node(...args: string[]): Promise<{ readonly code: number; readonly out: string }> {
  const { PATH = '', HOME = '' } = process.env
  try {
    const { stdout, stderr } = await run(process.execPath, args, { cwd: copy, env: { PATH, HOME, CI: 'true', NO_COLOR: '1' } })
    return { code: 0, out: stdout + stderr }
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string }
    return { code, out: stdout + stderr }
  }
}

const create = (...args: string[]): ReturnType<typeof node> => node('scripts/new-connector.ts', ...args, '--no-install')

beforeAll(async () => {
  copy = await mkdtemp(join(tmpdir(), 'new-connector-'))
  const left = new Set(['node_modules', '.git', '.demo'])
  // With what was built, and its times: types of siblings need not be built again.
  await cp(root, copy, { recursive: true, preserveTimestamps: true, filter: (from) => !left.has(basename(from)) })
  const packages = await Promise.all(
    ['packages', 'packages/connectors', 'apps'].map(async (top) =>
      (await readdir(join(root, top))).map((name) => join(top, name)),
    ),
  )
  for (const folder of ['.', ...packages.flat()]) {
    const modules = join(root, folder, 'node_modules')
    if (existsSync(modules)) await symlink(modules, join(copy, folder, 'node_modules'))
  }
}, 60_000)
afterAll(() => rm(copy, { recursive: true, force: true }))

it('makes a connector that passes the shape test, its own tests, types and lint at once', { timeout: 120_000 }, async () => {
  expect(await create('connector', 'zebra')).toMatchObject({ code: 0, out: expect.stringContaining('packages/connectors/zebra') })
  const folder = 'packages/connectors/zebra'
  await symlink(join(root, 'packages/connectors/newprotocol/node_modules'), join(copy, folder, 'node_modules'))
  const [tests, types, lint, format] = await Promise.all([
    node('node_modules/vitest/vitest.mjs', 'run', folder, 'packages/testkit/test/shape.test.ts'),
    node('node_modules/typescript/bin/tsc', '-b', folder),
    // Of a part alone it knows too little of the types.
    node('node_modules/oxlint/bin/oxlint', '--type-aware', '--format=unix'),
    node(
      'node_modules/oxfmt/bin/oxfmt',
      '--check',
      folder,
      'tsconfig.json',
      'packages/testkit/test/shape.test.ts',
      'packages/connections',
    ),
  ])
  expect(tests, tests.out.slice(-2_000)).toMatchObject({ code: 0, out: expect.stringMatching(/\n\d{2,} passed, 0 failed/) })
  expect([types, format.code], format.out).toEqual([{ code: 0, out: '' }, 0])
  // What is wrong elsewhere is found elsewhere.
  expect([0, 1]).toContain(lint.code)
  expect(lint.out.split('\n').filter((line) => line.includes('zebra'))).toEqual([])
  // Of the template nothing is left in it, and it is known where others are.
  for (const entry of await readdir(join(copy, folder), { recursive: true, withFileTypes: true })) {
    const file = join(entry.parentPath, entry.name)
    expect(entry.name).not.toMatch(/newprotocol/i)
    if (entry.isFile() && !file.includes('node_modules'))
      expect(await readFile(file, 'utf8'), file).not.toMatch(/newprotocol|template/i)
  }
  for (const table of ['README.md', 'tsconfig.json', 'packages/connections/src/discovery.ts'])
    expect(await readFile(join(copy, table), 'utf8'), table).toContain('zebra')
})

it('takes a name once, and only one that a variable may have', async () => {
  for (const args of [[], ['handler', 'zebra'], ['connector', 'my-db'], ['connector', 'class']]) {
    expect(await create(...args)).toMatchObject({ code: 2, out: expect.stringContaining('usage: pnpm new connector <name>') })
  }
  expect(await create('connector', 'sqlite')).toEqual({ code: 2, out: 'packages/connectors/sqlite is there already\n' })
})
