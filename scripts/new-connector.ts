import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { cp, readdir, readFile, rename, writeFile } from 'node:fs/promises'
import { basename, join, relative } from 'node:path'

// `pnpm new connector <name>`: a copy of packages/connectors/newprotocol under another name, with its rows in the shared
// tables; it passes the shape test, types, lint and its own tests as it is. `--no-install` leaves the links to others.

const root = join(import.meta.dirname, '..')
const TEMPLATE = 'newprotocol'

interface Manifest {
  private?: boolean
  description: string
}

const [kind, name = '', ...flags] = process.argv.slice(2)
const unknown = flags.find((flag) => flag !== '--no-install')
if (kind !== 'connector' || !isIdentifier(name) || unknown !== undefined) {
  process.stderr.write(`usage: pnpm new connector <name> [--no-install]
<name> is the protocol as others write it: letters and digits in lower case, such as mqtt; it becomes a variable, too
`)
  process.exit(2)
}
const folder = join(root, 'packages/connectors', name)
if (existsSync(folder)) {
  process.stderr.write(`${relative(root, folder)} is there already\n`)
  process.exit(2)
}

await copyTemplate()
await addRows()
if (!flags.includes('--no-install')) run(process.env['npm_execpath'] ?? 'pnpm', 'install')
run(join(root, 'node_modules/.bin/oxfmt'), folder)
process.stdout.write(`packages/connectors/${name} speaks to a small server of its own. Try it, then make it yours:

  pnpm vitest run packages/connectors/${name} packages/testkit/test/shape.test.ts

  test/${name}-server.ts   a launcher of the real server in its place (packages/testkit/src/servers has many)
  src/config.ts            the keys; pnpm options writes their table into the README
  src/client.ts            the driver, imported in this file alone (its row in shape.test.ts names it)
  src/errors.ts            the driver's errors as core's, a row each; test/errors.test.ts holds them
  src/connector.ts         what an item is, and its watermark
  README.md, CHANGELOG.md, examples/
`)

function isIdentifier(text: string): boolean {
  if (!/^[a-z][a-z0-9]*$/.test(text)) return false
  try {
    // oxlint-disable-next-line typescript/no-implied-eval -- it is parsed and not run: is it a name that a variable may have?
    return typeof new Function(`const ${text} = 0`) === 'function'
  } catch {
    return false
  }
}

function renamed(text: string): string {
  return text
    .replaceAll(TEMPLATE, name)
    .replaceAll(TEMPLATE.toUpperCase(), name.toUpperCase())
    .replaceAll('Newprotocol', name.charAt(0).toUpperCase() + name.slice(1))
}

async function copyTemplate(): Promise<void> {
  const left = new Set(['node_modules', 'dist'])
  await cp(join(folder, '..', TEMPLATE), folder, { recursive: true, filter: (from) => !left.has(basename(from)) })
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    const file = join(entry.parentPath, entry.name)
    await edit(file, renamed)
    await rename(file, join(entry.parentPath, renamed(entry.name)))
  }
  await edit(join(folder, 'package.json'), (text) => {
    const { private: _private, ...manifest } = JSON.parse(text) as Manifest
    return json({ ...manifest, description: `The connector for ${name}` })
  })
  await edit(join(folder, 'README.md'), (text) => text.replace(/^It is the template .*\n\n/m, ''))
}

/** In the shared tables, after the template's own rows. */
async function addRows(): Promise<void> {
  await edit(join(root, 'tsconfig.json'), (text) => {
    const { references, ...rest } = JSON.parse(text) as { references: { path: string }[] }
    return json({
      ...rest,
      references: references.flatMap((one) => (isTemplate(one.path) ? [one, { path: renamed(one.path) }] : [one])),
    })
  })
  await edit(join(root, 'packages/testkit/test/shape.test.ts'), (text) =>
    text.replace(/^ {2}'packages\/connectors\/newprotocol'.*\n/gm, twice),
  )
  await edit(join(root, 'README.md'), (text) =>
    text.replace(
      /^\| \[connectors\/newprotocol\].*\n/m,
      (row) => `${row}| [connectors/${name}](packages/connectors/${name}) | ${name} as a source | – |\n`,
    ),
  )
  const discovery = join(root, 'packages/connections/src/discovery.ts')
  // What was announced is known before it is there.
  if ((await readFile(discovery, 'utf8')).includes(`\n  '${name}',\n`)) return
  await edit(discovery, (text) => text.replace(/(const known = new Set\(\[\n[^\]]*)/, `$1  '${name}',\n`))
}

function isTemplate(path: string): boolean {
  return path.endsWith(`/${TEMPLATE}`)
}

function twice(row: string): string {
  return row + renamed(row)
}

function json(value: unknown): string {
  return `${JSON.stringify(value, undefined, 2)}\n`
}

/** Changes a file. @throws Error if nothing changed where something had to */
async function edit(file: string, change: (text: string) => string): Promise<void> {
  const before = await readFile(file, 'utf8')
  const after = change(before)
  if (after === before && !file.startsWith(folder)) throw new Error(`${relative(root, file)} has no place for a new connector`)
  await writeFile(file, after)
}

function run(command: string, ...args: string[]): void {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' })
  if (error !== undefined || status !== 0) {
    throw new Error(`${basename(command)} ${args.join(' ')} ended with ${error?.message ?? status}`)
  }
}
