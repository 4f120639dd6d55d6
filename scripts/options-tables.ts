import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { configKeys } from '../packages/core/src/index.ts'

// The table of options in a package's README, written from its schema. It stands between the two comments below; the default
// of an option without one in the schema is what its description says after the last semicolon as `… by default`.
// `--check` writes nothing and fails where a table is not what the schema says.

type Schema = Parameters<typeof configKeys>[0]
type Option = ReturnType<typeof configKeys>[number]

const BEGIN = '<!-- options: written by scripts/options-tables.ts from the schema -->'
const END = '<!-- end of options -->'
const MIB = 1024 * 1024

const grouped = (value: number): string => value.toString().replace(/\B(?=(\d{3})+$)/g, ' ')

function literal(name: string, value: unknown): string {
  if (typeof value === 'number') {
    if (/bytes|size/i.test(name) && value >= MIB && value % MIB === 0) return `${grouped(value / MIB)} MiB`
    return Number.isInteger(value) ? grouped(value) : String(value)
  }
  if (value === '' || (Array.isArray(value) && value.length === 0)) return 'none'
  if (typeof value === 'object' && value !== null && Object.keys(value).length === 0) return 'none'
  return `\`${typeof value === 'string' ? value : JSON.stringify(value)}\``
}

function row({ path, required, secret, default: value, description = '' }: Option): string {
  const name = path.join('.')
  const [, meaning = description, byDefault] = /^(.*); ([^;]+) by default$/.exec(description) ?? []
  const fallback = required ? 'required' : value === undefined ? (byDefault ?? '') : literal(path.at(-1) ?? '', value)
  const said = value === undefined ? meaning : description
  const text = `${said}${secret ? ' (secret)' : ''}`.replaceAll('|', '\\|')
  return `| \`${name}\` | ${fallback} | ${/^[A-Z][a-z]/.test(text) ? text.charAt(0).toLowerCase() + text.slice(1) : text} |`
}

function table(schema: Schema): string {
  const undescribed = configKeys(schema).filter((key) => key.description === undefined)
  if (undescribed.length > 0) throw new Error(`without a description: ${undescribed.map((key) => key.path.join('.')).join(', ')}`)
  return ['| option | default | meaning |', '|---|---|---|', ...configKeys(schema).map(row)].join('\n')
}

const packages = join(import.meta.dirname, '../packages')
const check = process.argv.includes('--check')
let failed = false
const connectors = (await readdir(join(packages, 'connectors'))).map((name) => `connectors/${name}`)
const folders = (await readdir(packages)).filter((name) => name !== 'connectors')
for (const name of [...folders, ...connectors].toSorted()) {
  const readme = join(packages, name, 'README.md')
  const text = await readFile(readme, 'utf8')
  const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)]
  if (begin < 0 || end < begin) {
    // What has a handler has options.
    if (name.endsWith('-handler') || name.startsWith('connectors/')) {
      failed = true
      process.stderr.write(`${name}: README.md has no place for the options: ${BEGIN} … ${END}\n`)
    }
    continue
  }
  const config = (await import(pathToFileURL(join(packages, name, 'src/config.ts')).href)) as Record<string, unknown>
  const schemas = Object.entries(config).filter(([key]) => key.endsWith('ConfigSchema'))
  const [schema] = schemas
  if (schema === undefined || schemas.length > 1) throw new Error(`${name}: src/config.ts must export one …ConfigSchema`)
  const wanted = `${text.slice(0, begin)}${BEGIN}\n\n${table(schema[1] as Schema)}\n\n${text.slice(end)}`
  if (wanted === text) continue
  if (check) {
    failed = true
    process.stderr.write(`${name}: the options in README.md are not those of the schema; run: npx -y pnpm@12 options\n`)
  } else {
    await writeFile(readme, wanted)
    process.stdout.write(`${name}: README.md written\n`)
  }
}
process.exitCode = failed ? 1 : 0
