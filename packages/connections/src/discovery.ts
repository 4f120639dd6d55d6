import { existsSync, readFileSync, realpathSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { cwd } from 'node:process'
import { pathToFileURL } from 'node:url'
import type { ConnectorDefinition } from './contract.ts'
import { noConnector } from './errors.ts'

/** The connectors of this project; each is a package of its own with its own driver. */
const known = new Set([
  'postgres',
  'mssql',
  'oracle',
  'sqlite',
  'soap',
  'ftp',
  'sftp',
  'webdav',
  'mongodb',
  'cassandra',
  'neo4j',
  'gsheets',
  'kafka',
  'amqp',
  'nats',
])

interface PackageJson {
  readonly dependencies?: Readonly<Record<string, string>>
  readonly devDependencies?: Readonly<Record<string, string>>
  readonly optionalDependencies?: Readonly<Record<string, string>>
  readonly peerDependencies?: Readonly<Record<string, string>>
  readonly 'common-handlers'?: { readonly protocol?: unknown }
}

/** A connector that a project depends on, found by its package.json and not loaded. */
export interface FoundConnector {
  readonly protocol: string
  readonly packageName: string
  /** The package.json of the project that depends on it. */
  readonly project: string
}

/**
 * The projects whose dependencies are looked at: that of the current folder and that of the program that was started, so
 * that a service started from `/` finds its own.
 */
export function callingProjects(): string[] {
  const script = process.argv[1]
  const from = [cwd(), ...(script !== undefined && existsSync(script) ? [dirname(realpathSync(script))] : [])]
  return [...new Set(from.map(nearestProject).filter((project) => project !== undefined))]
}

/** The package.json of a folder or of the nearest one above it. */
export function nearestProject(folder: string): string | undefined {
  const file = join(folder, 'package.json')
  if (existsSync(file)) return file
  return dirname(folder) === folder ? undefined : nearestProject(dirname(folder))
}

/** The connectors among a project's own dependencies: those whose package.json names a protocol. Nothing is imported. */
export function findConnectors(project: string): FoundConnector[] {
  const { dependencies, devDependencies, optionalDependencies, peerDependencies } = readPackage(project)
  const names = Object.keys({ ...devDependencies, ...peerDependencies, ...optionalDependencies, ...dependencies })
  return names.flatMap((packageName) => {
    const file = installed(packageName, dirname(project))
    const protocol = file === undefined ? undefined : readPackage(file)['common-handlers']?.protocol
    return typeof protocol === 'string' ? [{ protocol, packageName, project }] : []
  })
}

/** Imports a connector as its project would. */
export async function loadConnector({ protocol, packageName, project }: FoundConnector): Promise<ConnectorDefinition> {
  let exported: unknown
  try {
    const module = (await import(pathToModule(packageName, project))) as Readonly<Record<string, unknown>>
    exported = module[protocol]
  } catch (cause) {
    throw noConnector(packageName, protocol, cause)
  }
  if (!isDefinition(exported) || exported.protocol !== protocol) throw noConnector(packageName, protocol)
  return exported
}

/** The protocols of this project that are packages of their own, in alphabetical order. */
export const knownProtocols = (): string[] => [...known].toSorted()

/** The command that installs the connector of a known protocol, in the words of the project's own package manager. */
export const installCommand = (protocol: string, project: string | undefined): string =>
  `${addCommand(project)} @common-handlers/${protocol}`

/** What to do to have a protocol: the command to install its package, in the words of the project's own package manager. */
export function installAdvice(protocol: string, project: string | undefined): string {
  if (!known.has(protocol))
    return 'A connector is a package whose package.json names its protocol; see "Add a protocol" in the README.'
  return `Install it: ${installCommand(protocol, project)}`
}

const lockfiles = [
  ['pnpm-lock.yaml', 'pnpm add'],
  ['yarn.lock', 'yarn add'],
  ['bun.lock', 'bun add'],
  ['package-lock.json', 'npm install'],
] as const

function addCommand(project: string | undefined): string {
  for (let folder = project === undefined ? undefined : dirname(project); folder !== undefined;) {
    const here = folder
    const found = lockfiles.find(([name]) => existsSync(join(here, name)))
    if (found !== undefined) return found[1]
    folder = dirname(folder) === folder ? undefined : dirname(folder)
  }
  return 'npm install'
}

const pathToModule = (packageName: string, project: string): string =>
  // The file that Node would take for `import … from` in the project; a package must offer it under `default`.
  pathToFileURL(createRequire(project).resolve(packageName)).href

/** `node_modules/<name>/package.json` in the folder or above it, whatever the package exports. */
function installed(packageName: string, folder: string): string | undefined {
  const file = join(folder, 'node_modules', packageName, 'package.json')
  if (existsSync(file)) return file
  return dirname(folder) === folder ? undefined : installed(packageName, dirname(folder))
}

const readPackage = (file: string): PackageJson => JSON.parse(readFileSync(file, 'utf8')) as PackageJson

function isDefinition(value: unknown): value is ConnectorDefinition {
  if (typeof value !== 'object' || value === null) return false
  const { open, test, fetch, configSchema } = value as Partial<ConnectorDefinition>
  return [open, test, fetch].every((part) => typeof part === 'function') && typeof configSchema?.safeParse === 'function'
}
