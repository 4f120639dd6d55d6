import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { createDatabase, describeWith, openbaoAdmin } from '@common-handlers/testkit'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { buildWorkspace, callPnpm, root } from './workspace-build.ts'

// A package as a user gets it: its tarball (and those of the siblings it depends on) installed by npm in an empty project
// with nothing else but zod, and examples run there on plain node.

const run = promisify(execFile)
const scope = '@common-handlers/'

interface Manifest {
  readonly version: string
  readonly dependencies?: Readonly<Record<string, string>>
  readonly peerDependencies?: Readonly<Record<string, string>>
}

const manifestOf = async (name: string): Promise<Manifest> =>
  JSON.parse(await readFile(join(root, 'packages', name, 'package.json'), 'utf8')) as Manifest

/** A package and all siblings below it. */
async function withSiblings(name: string, found = new Set<string>()): Promise<Set<string>> {
  found.add(name)
  for (const dependency of Object.keys((await manifestOf(name)).dependencies ?? {})) {
    const sibling = dependency.startsWith(scope) ? dependency.slice(scope.length) : undefined
    if (sibling !== undefined && !found.has(sibling)) await withSiblings(sibling, found)
  }
  return found
}

/** The drivers of all handlers; a project that installs one handler has one of them. */
const drivers = ['node-vault', '@aws-sdk/client-s3', 'pg', 'undici', '@duckdb/node-api']

interface Published {
  /** Those that need nothing arranged but the environment below; the packages' own tests run all of them. */
  readonly examples: readonly string[]
  readonly driver?: string
  /** Other packages that the examples import. */
  readonly also?: readonly string[]
}

const packages: Readonly<Record<string, Published>> = {
  connections: { examples: ['pages.ts'], driver: 'undici' },
  dataset: { examples: ['write-a-run.ts'], also: ['storage'] },
  'duckdb-handler': { examples: ['load-csv.ts'], driver: '@duckdb/node-api' },
  outbox: { examples: ['orders.ts'], driver: 'pg', also: ['postgres-handler'] },
  // Its example is what `outbox work` is given: its own tests run it.
  'outbox-cli': { examples: [], driver: 'pg' },
  'postgres-handler': { examples: ['audit-log.ts'], driver: 'pg' },
  's3-handler': { examples: ['put-and-read.ts', 'rows-and-folders.ts'], driver: '@aws-sdk/client-s3' },
  storage: { examples: ['claim.ts'] },
  'trino-handler': { examples: ['exactly-once.ts', 'query.ts'], driver: 'undici' },
  'vault-handler': { examples: ['read-secret.ts', 'write-secrets.ts'], driver: 'node-vault' },
}

describe('packages with examples', () => {
  it('are all tried below', async () => {
    const names = await readdir(join(root, 'packages'))
    const found = await Promise.all(names.map((name) => readdir(join(root, 'packages', name, 'examples')).catch(() => [])))
    expect(names.filter((_, index) => (found[index]?.length ?? 0) > 0).toSorted()).toEqual(Object.keys(packages).toSorted())
  })
})

describeWith(['openbao', 'postgres', 's3', 'trino'], 'from its tarball', ({ openbao, postgres, s3, trino }) => {
  let folder: string
  let environment: Record<string, string>

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'published-'))
    await buildWorkspace()
    const siblings = new Set<string>()
    for (const [name, { also = [] }] of Object.entries(packages))
      for (const one of [name, ...also]) await withSiblings(one, siblings)
    for (const name of siblings) await callPnpm(join(root, 'packages', name), 'pack', '--pack-destination', folder)
    await openbaoAdmin(openbao).putSecret('postgres/db', { user: 'app', password: 'correct horse' })
    environment = {
      PATH: process.env['PATH'] ?? '',
      VAULT_ADDR: openbao.address,
      VAULT_TOKEN: openbao.rootToken,
      POSTGRES_URL: (await createDatabase(postgres, 'published')).url,
      S3_ENDPOINT: s3.endpoint,
      S3_BUCKET: s3.bucket,
      S3_PREFIX: `published-${randomUUID()}`,
      AWS_ACCESS_KEY_ID: s3.accessKeyId,
      AWS_SECRET_ACCESS_KEY: s3.secretAccessKey,
    }
  })
  afterAll(() => rm(folder, { recursive: true, force: true }))

  it.each(Object.entries(packages))('%s installs alone and runs its examples', async (name, { examples, driver, also = [] }) => {
    const project = join(folder, `project-${name}`)
    await mkdir(project)
    await writeFile(join(project, 'package.json'), JSON.stringify({ name: 'empty', private: true, type: 'module' }))
    const { version, peerDependencies } = await manifestOf(name)
    const siblings = new Set<string>()
    for (const one of [name, ...also]) await withSiblings(one, siblings)
    const tarballs = [...siblings].map((one) => join(folder, `common-handlers-${one}-${version}.tgz`))
    const peers = Object.entries(peerDependencies ?? {}).map(([peer, range]) => `${peer}@${range}`)
    const quiet = ['--no-audit', '--no-fund', '--ignore-scripts', '--prefer-offline']
    await run('npm', ['install', ...quiet, ...tarballs, ...peers], { cwd: project })

    expect(drivers.filter((one) => existsSync(join(project, 'node_modules', one)))).toEqual(driver === undefined ? [] : [driver])

    await cp(join(root, 'packages', name, 'examples'), join(project, 'examples'), { recursive: true })
    const args = name === 'trino-handler' ? [trino.url, trino.user, trino.catalog] : []
    for (const file of examples) {
      const { stdout } = await run(process.execPath, [join(project, 'examples', file), ...args], {
        cwd: project,
        env: environment,
      })
      expect(stdout, file).not.toBe('')
    }
  })
})
