import { execFile } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { mkdir, readdir, stat, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { promisify } from 'node:util'
import { callPnpm, root } from './workspace-build.ts'

// A project as a user has it: empty, with the packed façade and one connector, installed by npm.

const run = promisify(execFile)
const scope = '@common-handlers/'

interface Manifest {
  readonly version: string
  readonly private?: boolean
  readonly dependencies?: Readonly<Record<string, string>>
  readonly peerDependencies?: Readonly<Record<string, string>>
}

const folderOf = (name: string): string => {
  const connector = join(root, 'packages/connectors', name)
  return existsSync(connector) ? connector : join(root, 'packages', name)
}
const manifestOf = (name: string): Manifest => JSON.parse(readFileSync(join(folderOf(name), 'package.json'), 'utf8')) as Manifest

/** The connectors that are published, by their protocols. */
export const connectors: readonly string[] = readdirSync(join(root, 'packages/connectors'))
  .filter((name) => existsSync(join(folderOf(name), 'src/index.ts')) && manifestOf(name).private !== true)
  .toSorted()

/** What a connector is written over: its dependencies that are no packages of this repository. */
export const driversOf = (name: string): string[] =>
  Object.keys(manifestOf(name).dependencies ?? {}).filter((dependency) => !dependency.startsWith(scope))

/** A package and all packages of this repository below it. */
function withSiblings(name: string, found = new Set<string>()): Set<string> {
  found.add(name)
  for (const dependency of Object.keys(manifestOf(name).dependencies ?? {})) {
    const sibling = dependency.startsWith(scope) ? dependency.slice(scope.length) : undefined
    if (sibling !== undefined && !found.has(sibling)) withSiblings(sibling, found)
  }
  return found
}

/** Packs the façade, its program and the connectors, which are built already, into a folder. */
export async function packConnectors(into: string): Promise<void> {
  const names = new Set(['connections-cli', ...connectors].flatMap((name) => [...withSiblings(name)]))
  await Promise.all([...names].map((name) => callPnpm(folderOf(name), 'pack', '--pack-destination', into)))
}

export interface IsolatedProject {
  readonly folder: string
  /** What npm has installed: packages, and the bytes of their files. */
  readonly packages: number
  readonly bytes: number
}

/** Makes a project beside the tarballs and installs into it: the façade and what is named. */
export async function installAlone(tarballs: string, ...names: string[]): Promise<IsolatedProject> {
  const folder = join(tarballs, ['project', ...names].join('-'))
  await mkdir(folder)
  const manifest = { name: 'empty', private: true, type: 'module' }
  await writeFile(join(folder, 'package.json'), JSON.stringify(manifest))
  const siblings = new Set(['connections', ...names].flatMap((name) => [...withSiblings(name)]))
  const files = [...siblings].map((name) => join(tarballs, `common-handlers-${name}-${manifestOf(name).version}.tgz`))
  const peers = Object.entries(manifestOf('connections').peerDependencies ?? {}).map(([peer, range]) => `${peer}@${range}`)
  const quiet = ['--no-audit', '--no-fund', '--ignore-scripts', '--prefer-offline']
  await run('npm', ['install', ...quiet, ...files, ...peers], { cwd: folder })
  return { folder, ...(await weigh(join(folder, 'node_modules'))) }
}

/** A package is a folder right below a `node_modules`, or below a scope there. */
async function weigh(modules: string): Promise<{ packages: number; bytes: number }> {
  let packages = 0
  let bytes = 0
  for (const entry of await readdir(modules, { recursive: true, withFileTypes: true })) {
    const file = join(entry.parentPath, entry.name)
    if (!entry.isFile()) continue
    bytes += (await stat(file)).size
    const [above, further] = [join(entry.parentPath, '..'), join(entry.parentPath, '../..')].map((path) => basename(path))
    const isPackage = above === 'node_modules' || (above?.startsWith('@') && further === 'node_modules')
    if (entry.name === 'package.json' && isPackage) packages += 1
  }
  return { packages, bytes }
}
