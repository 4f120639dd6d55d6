import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { describe, expect, it } from 'vitest'

// The shape of the repository: who may import whom, what each package depends on, which files it has. A change here is a
// change of the architecture; say why in the commit.

const root = join(import.meta.dirname, '../../..')
const scope = '@common-handlers/'

/** Dependencies of each package, siblings by their folder, others by name. Development dependencies are not held here. */
const dependencies: Readonly<Record<string, readonly string[]>> = {
  'packages/core': ['yaml'],
  'packages/cli': ['core', 'commander', 'pino', 'prom-client'],
  'packages/storage': ['core'],
  'packages/dataset': ['core'],
  'packages/vault-handler': ['core', 'node-vault'],
  'packages/s3-handler': ['core', '@aws-sdk/client-s3'],
  'packages/postgres-handler': ['core', 'pg'],
  'packages/trino-handler': ['core', 'undici'],
  'packages/duckdb-handler': ['core', '@duckdb/node-api'],
  'packages/outbox': ['core', 'croner'],
  'packages/outbox-cli': ['cli', 'core', 'outbox', 'pg', 'zod'],
  'packages/lake': ['connections', 'core', 'hyparquet', 'hyparquet-writer'],
  'packages/connections': ['core', 'storage', 'undici'],
  'packages/connections-cli': ['cli', 'connections', 'core', 'zod'],
  'packages/connectors/mssql': ['connections', 'core', 'tedious'],
  'packages/connectors/oracle': ['connections', 'core', 'oracledb'],
  'packages/connectors/postgres': ['connections', 'core', 'pg', 'pg-cursor'],
  'packages/connectors/newprotocol': ['connections', 'core'],
  'packages/connectors/ftp': ['basic-ftp', 'connections', 'core'],
  'packages/connectors/sftp': ['connections', 'core', 'ssh2'],
  'packages/connectors/cassandra': ['connections', 'core', 'cassandra-driver'],
  'packages/connectors/mongodb': ['connections', 'core', 'mongodb'],
  'packages/connectors/gsheets': ['connections', 'core', 'undici'],
  'packages/connectors/soap': ['connections', 'core', 'soap'],
  'packages/connectors/neo4j': ['connections', 'core', 'neo4j-driver'],
  'packages/connectors/kafka': ['connections', 'core', '@platformatic/kafka'],
  'packages/connectors/amqp': ['amqplib', 'connections', 'core'],
  'packages/connectors/nats': ['connections', 'core', '@nats-io/jetstream', '@nats-io/transport-node'],
  'packages/connectors/sqlite': ['connections', 'core'],
  'packages/connectors/webdav': ['connections', 'core', 'saxes'],
  'apps/extractor': ['cli', 'core', 'dataset', 'postgres-handler', 's3-handler', 'storage', 'vault-handler', 'zod'],
  'apps/ingestor': ['cli', 'core', 'dataset', 's3-handler', 'storage', 'trino-handler', 'vault-handler', 'zod'],
}

/** The driver of each handler; it is imported in one file of the package. */
const drivers: Readonly<Record<string, string>> = {
  'packages/vault-handler': 'node-vault',
  'packages/s3-handler': '@aws-sdk/client-s3',
  'packages/postgres-handler': 'pg',
  'packages/trino-handler': 'undici',
  'packages/duckdb-handler': '@duckdb/node-api',
  'packages/outbox-cli': 'pg',
  'packages/lake': 'hyparquet-writer',
  'packages/connections': 'undici',
  'packages/connectors/kafka': '@platformatic/kafka',
  'packages/connectors/amqp': 'amqplib',
  'packages/connectors/nats': '@nats-io/jetstream',
  'packages/connectors/mssql': 'tedious',
  'packages/connectors/oracle': 'oracledb',
  'packages/connectors/postgres': 'pg',
  'packages/connectors/newprotocol': 'node:net',
  'packages/connectors/ftp': 'basic-ftp',
  'packages/connectors/sftp': 'ssh2',
  'packages/connectors/cassandra': 'cassandra-driver',
  'packages/connectors/mongodb': 'mongodb',
  'packages/connectors/gsheets': 'undici',
  'packages/connectors/soap': 'soap',
  'packages/connectors/neo4j': 'neo4j-driver',
  'packages/connectors/sqlite': 'node:sqlite',
  'packages/connectors/webdav': 'saxes',
}

interface PackageJson {
  readonly name: string
  readonly version: string
  readonly dependencies?: Readonly<Record<string, string>>
  readonly peerDependencies?: Readonly<Record<string, string>>
  readonly optionalDependencies?: Readonly<Record<string, string>>
  readonly engines?: Readonly<Record<string, string>>
  readonly type?: string
}

const readJson = (path: string): PackageJson => JSON.parse(readFileSync(join(root, path), 'utf8')) as PackageJson
const folders = ['packages', 'packages/connectors', 'apps']
  .flatMap((top) => readdirSync(join(root, top)).map((name) => `${top}/${name}`))
  .filter((folder) => folder !== 'packages/connectors')

function sources(folder: string): string[] {
  const found = readdirSync(join(root, folder, 'src'), { recursive: true, encoding: 'utf8' })
  return found.filter((name) => name.endsWith('.ts')).map((name) => join(root, folder, 'src', name))
}

/** Every module that a file imports, dynamic and type imports included. */
function imports(file: string): string[] {
  const text = readFileSync(file, 'utf8').replace(/^\s*(\/\/|\*|\/\*).*$/gm, '')
  const pattern =
    /(?:^|\n)\s*(?:import|export)\b[^'"\n;]*?(?:\{[^}]*\})?[^'"\n;]*?from\s*['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]|(?:^|\n)import\s*['"]([^'"]+)['"]/g
  return [...text.matchAll(pattern)].map((match) => match[1] ?? match[2] ?? match[3] ?? '')
}

const packageOf = (specifier: string): string =>
  specifier.startsWith('@') ? specifier.split('/').slice(0, 2).join('/') : (specifier.split('/')[0] ?? specifier)

describe('the repository', () => {
  it('has the packages and apps that are listed here, and testkit', () => {
    expect(folders.toSorted()).toEqual([...Object.keys(dependencies), 'packages/testkit'].toSorted())
  })

  it('has one version for all', () => {
    const versions = folders.map((folder) => readJson(`${folder}/package.json`).version)
    expect(new Set(versions)).toEqual(new Set([readJson('package.json').version]))
  })
})

describe.each(Object.keys(dependencies))('%s', (folder) => {
  const manifest = readJson(`${folder}/package.json`)

  it('depends on what is listed here and nothing else', () => {
    const expected = (dependencies[folder] ?? []).map((name) => (existsSync(join(root, 'packages', name)) ? scope + name : name))
    expect(Object.keys(manifest.dependencies ?? {}).toSorted()).toEqual(expected.toSorted())
    expect(manifest.optionalDependencies).toBeUndefined()
    // A program brings its zod along.
    const program = folder.startsWith('apps/') || folder.endsWith('-cli')
    const peers = folder === 'apps/ingestor' ? [`${scope}duckdb-handler`] : program ? undefined : ['zod']
    expect(manifest.peerDependencies === undefined ? undefined : Object.keys(manifest.peerDependencies)).toEqual(peers)
  })

  it('imports only what it declares, and no sibling by path', () => {
    const declared = new Set([...Object.keys(manifest.dependencies ?? {}), ...Object.keys(manifest.peerDependencies ?? {})])
    const files = sources(folder)
    expect(files.length).toBeGreaterThan(0)
    for (const file of files) {
      for (const specifier of imports(file)) {
        const place = `${relative(root, file)} imports ${specifier}`
        if (specifier.startsWith('node:')) continue
        if (specifier.startsWith('.')) {
          expect(relative(join(root, folder, 'src'), join(file, '..', specifier)).startsWith('..'), place).toBe(false)
        } else expect(declared.has(packageOf(specifier)), place).toBe(true)
      }
    }
  })

  it('has the standard files', () => {
    for (const name of ['README.md', 'CHANGELOG.md', 'tsconfig.json', 'src/index.ts', 'test']) {
      expect(existsSync(join(root, folder, name)), `${folder}/${name}`).toBe(true)
    }
    expect([manifest.type, manifest.engines?.['node']]).toEqual(['module', '>=22.18'])
    expect(readFileSync(join(root, folder, 'src/index.ts'), 'utf8')).not.toMatch(/export \*/)
  })

  it('reads the environment in one place at most', () => {
    const readers = sources(folder).filter((file) =>
      readFileSync(file, 'utf8')
        .replace(/^\s*(\/\/|\*|\/\*).*$/gm, '')
        .includes('process.env'),
    )
    for (const file of readers) expect(relative(join(root, folder, 'src'), file)).toMatch(/^(config|main)\.ts$/)
  })
})

describe.each(Object.entries(drivers))('%s', (folder, driver) => {
  it(`imports ${driver} in one file`, () => {
    const files = sources(folder).filter((file) => imports(file).some((specifier) => packageOf(specifier) === driver))
    expect(files.map((file) => relative(join(root, folder), file))).toHaveLength(1)
  })
})
