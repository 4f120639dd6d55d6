import { readdir, readFile, realpath, rm, rmdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

// The last step of each image's build: takes what no program reads out of the deployed app, and writes beside it what is
// inside, handlers.json. Run by the Dockerfiles: node docker/image-contents.ts /app

interface Manifest {
  readonly name: string
  readonly version: string
  readonly license?: string
  readonly dependencies?: Readonly<Record<string, string>>
}

const [app = ''] = process.argv.slice(2)
if (app === '') throw new Error('usage: node docker/image-contents.ts <folder of the deployed app>')
const scope = '@common-handlers/'

const readJson = async (path: string): Promise<unknown> => JSON.parse(await readFile(path, 'utf8'))
const manifestIn = async (folder: string): Promise<Manifest> => (await readJson(join(folder, 'package.json'))) as Manifest

/** Handlers that the app can load, with the driver each brings. */
async function handlers(): Promise<unknown[]> {
  const found: unknown[] = []
  const names = await readdir(join(app, 'node_modules', scope))
  for (const name of names.filter((entry) => entry.endsWith('-handler')).toSorted()) {
    const folder = await realpath(join(app, 'node_modules', scope, name))
    const handler = await manifestIn(folder)
    const drivers = Object.keys(handler.dependencies ?? {}).filter((dependency) => !dependency.startsWith(scope))
    found.push({
      name: handler.name,
      version: handler.version,
      license: handler.license,
      drivers: await Promise.all(
        drivers.map(async (driver) => {
          // Beside the package itself, as pnpm lays it out.
          const inside = await manifestIn(join(folder, '../..', driver))
          return { name: inside.name, version: inside.version, license: inside.license }
        }),
      ),
    })
  }
  return found
}

// Sources, source maps, documentation and tests are for those who write programs; the rest of the list holds paths and times of
// this build, which would make two builds of the same source differ.
const unread =
  /\.([cm]?ts|map|md|markdown|tsbuildinfo)$|^(pnpm-lock\.yaml|pnpm-workspace\.yaml|\.modules\.yaml|lock\.yaml|\.pnpm-workspace-state-v1\.json)$/
const test = /^test\.[cm]?js$|\.(test|spec)\.[cm]?js$/
const keep = /^(licen[cs]e|copying|notice|copyright)/i
// Directly in a package: deeper down such a name may be a module of the program.
const unreadFolder = /\/node_modules\/(@[^/]+\/)?[^/]+\/(tests?|__tests__|bench|benchmarks?|examples?|\.github)$/
const entries = await readdir(app, { recursive: true, withFileTypes: true })
for (const entry of entries) {
  const path = join(entry.parentPath, entry.name)
  if (entry.isDirectory() && unreadFolder.test(path)) await rm(path, { recursive: true })
  else if (entry.isFile() && (unread.test(entry.name) || test.test(entry.name)) && !keep.test(entry.name))
    await rm(path, { force: true })
}
// The deepest first, and so each that holds nothing but empty ones.
const folders = entries.filter((entry) => entry.isDirectory()).map((entry) => join(entry.parentPath, entry.name))
for (const folder of folders.toSorted((one, other) => other.length - one.length)) {
  await rmdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOTEMPTY' && error.code !== 'ENOENT') throw error
  })
}

// An SBOM may say when it was made and carry a number of its own, both optional, and may list things in any order.
interface Bill {
  serialNumber?: string
  readonly metadata: { timestamp?: string }
  readonly components: Part[]
  readonly dependencies: (Part & { readonly dependsOn?: string[] })[]
}
type Part = Readonly<Record<'bom-ref' | 'ref', string | undefined>>
const byName = (one: Part, other: Part): number => {
  const [name = '', otherName = ''] = [one['bom-ref'] ?? one.ref, other['bom-ref'] ?? other.ref]
  return name < otherName ? -1 : 1
}
const billOfMaterials = (await readJson(join(app, 'sbom.cdx.json'))) as Bill
delete billOfMaterials.serialNumber
delete billOfMaterials.metadata.timestamp
billOfMaterials.components.sort(byName)
billOfMaterials.dependencies.sort(byName)
for (const { dependsOn } of billOfMaterials.dependencies) dependsOn?.sort()
await writeFile(join(app, 'sbom.cdx.json'), `${JSON.stringify(billOfMaterials)}\n`)
await writeFile(join(app, 'handlers.json'), `${JSON.stringify(await handlers(), null, 2)}\n`)
