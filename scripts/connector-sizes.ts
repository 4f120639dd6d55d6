import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connectors, driversOf, installAlone, packConnectors } from '../packages/testkit/test/isolated-project.ts'
import { buildWorkspace, root } from '../packages/testkit/test/workspace-build.ts'

// What npm installs for a project with the façade and one connector, written into the README of connections between the two
// comments below.
//   node --conditions=@common-handlers/source scripts/connector-sizes.ts

const BEGIN = '<!-- sizes: written by scripts/connector-sizes.ts -->'
const END = '<!-- end of sizes -->'

const folder = await mkdtemp(join(tmpdir(), 'connector-sizes-'))
try {
  await buildWorkspace()
  await packConnectors(folder)
  const rows: string[] = []
  for (const name of [undefined, ...connectors]) {
    const { packages, bytes } = await installAlone(folder, ...(name === undefined ? [] : [name]))
    const drivers = driversOf(name ?? 'connections').map((driver) => `\`${driver}\``)
    rows.push(
      `| ${name ?? 'the façade alone'} | ${drivers.join(', ') || '–'} | ${packages} | ${(bytes / 1_000_000).toFixed(1)} MB |`,
    )
    process.stdout.write(`${rows.at(-1)}\n`)
  }
  const table = ['| connector | driver | packages | size |', '|---|---|---|---|', ...rows].join('\n')
  const readme = join(root, 'packages/connections/README.md')
  const text = await readFile(readme, 'utf8')
  const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)]
  if (begin < 0 || end < begin) throw new Error(`${readme} has no place for the sizes: ${BEGIN} … ${END}`)
  await writeFile(readme, `${text.slice(0, begin + BEGIN.length)}\n\n${table}\n\n${text.slice(end)}`)
} finally {
  await rm(folder, { recursive: true, force: true })
}
