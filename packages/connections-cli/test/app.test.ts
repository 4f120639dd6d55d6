import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { runApp } from '@common-handlers/cli'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { connectionsApp } from '../src/index.ts'
import { version } from '../src/version.ts'

const main = join(import.meta.dirname, '../src/main.ts')
const source = '--conditions=@common-handlers/source'
let project: string
let server: Server
let baseUrl: string

interface Ended {
  readonly code: number | null
  readonly out: string
  readonly log: string
}

interface Told {
  readonly ok: boolean
  readonly steps: readonly { readonly name: string; readonly error?: { readonly code: string } }[]
}

/** Runs the program as a process of its own in the project. */
function call(argv: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Ended> {
  return new Promise((resolve) => {
    const options = { cwd: project, env: { PATH: process.env['PATH'] ?? '', ...env } }
    execFile(process.execPath, [source, main, ...argv], options, (error, out, log) => {
      resolve({ code: error === null ? 0 : Number(error.code), out, log })
    })
  })
}

const told = (ended: Ended): Told => JSON.parse(ended.out) as Told

beforeAll(async () => {
  project = await mkdtemp(join(tmpdir(), 'connections-cli-'))
  await mkdir(join(project, 'node_modules/@common-handlers'), { recursive: true })
  await symlink(join(import.meta.dirname, '../../connectors/sqlite'), join(project, 'node_modules/@common-handlers/sqlite'))
  const dependencies = { '@common-handlers/sqlite': '0.1.0' }
  await writeFile(join(project, 'package.json'), JSON.stringify({ name: 'project', type: 'module', dependencies }))
  await writeFile(join(project, 'pnpm-lock.yaml'), '')
  await writeFile(join(project, 'password'), 'correct horse\n')
  server = createServer(({ url, headers: { authorization } }, response) => {
    if (url !== '/silent') response.writeHead(authorization === `Basic ${btoa('me:correct horse')}` ? 200 : 401).end()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  await writeFile(
    join(project, 'connections.yaml'),
    `connections:
  orders: { protocol: http, baseUrl: '${baseUrl}', username: me, password: 'file:password' }
  archive: { protocol: sqlite, databasePath: ':memory:' }
`,
  )
})
afterAll(async () => {
  server.closeAllConnections()
  server.close()
  await rm(project, { recursive: true, force: true })
})

// Each call is a process of its own, which takes its time on a busy machine.
describe('the program connections', { timeout: 120_000 }, () => {
  it('has the version of its package', () => {
    const manifest = JSON.parse(readFileSync(join(import.meta.dirname, '../package.json'), 'utf8')) as { version: string }
    expect(version).toBe(manifest.version)
  })

  it('explains itself and each of its commands, with an example', async () => {
    const help = async (...argv: string[]): Promise<{ code: number; out: string }> => {
      let out = ''
      const stream = { write: (text: string) => (out += text) }
      const code = await runApp(connectionsApp, { argv, env: {}, stdout: stream, stderr: stream }, new AbortController().signal)
      return { code, out }
    }
    const { out } = await help('--help')
    for (const { name, summary } of connectionsApp.commands) {
      expect(out.replace(/\s+/g, ' ')).toContain(summary)
      expect(await help(name, '--help')).toEqual({
        code: 0,
        out: expect.stringMatching(new RegExp(`\\n +connections ${name}`)) as string,
      })
    }
  })

  it('lists the protocols of the project, and how to install the others', async () => {
    const { code, out } = await call(['list'])
    expect(code).toBe(0)
    const all = JSON.parse(out) as { protocol: string; install?: string }[]
    expect(all.filter(({ install }) => install === undefined).map(({ protocol }) => protocol)).toEqual(['http', 'sqlite'])
    expect(all).toContainEqual(expect.objectContaining({ protocol: 'kafka', install: 'pnpm add @common-handlers/kafka' }))
  })

  it('tries one connection: by protocol with keys, a URL and variables, or by its name in a file', async () => {
    expect(await call(['test', 'sqlite', '--key', 'databasePath=:memory:', 'busyTimeoutMs=10'])).toMatchObject({ code: 0 })
    const refused = await call(['test', 'http', '--url', baseUrl])
    expect([refused.code, told(refused).steps.at(-1)?.error?.code]).toEqual([1, 'HTTP_UNAUTHORIZED'])
    const variables = { HTTP_USERNAME: 'me', HTTP_PASSWORD_FILE: join(project, 'password') }
    expect(await call(['test', 'http', '--url', baseUrl], variables)).toMatchObject({ code: 0 })
    const named = await call(['test', 'orders'])
    expect([named.code, told(named)]).toMatchObject([0, { name: 'orders', protocol: 'http', ok: true }])
  })

  it('tries all connections of a file, and ends with 1 when one does not work', async () => {
    expect(await call(['doctor'])).toMatchObject({ code: 0, out: expect.stringContaining('"name":"archive"') as string })
    const file = join(project, 'other.json')
    await writeFile(
      file,
      JSON.stringify({ connections: { none: { protocol: 'ftp' }, memory: { protocol: 'sqlite', databasePath: ':memory:' } } }),
    )
    const { code, out } = await call(['doctor', '--file', 'other.json'])
    expect(code).toBe(1)
    expect(JSON.parse(out)).toMatchObject({
      ok: false,
      connections: [
        { name: 'none', ok: false },
        { name: 'memory', ok: true },
      ],
    })
    expect(out).toContain('pnpm add @common-handlers/ftp')
  })

  it('is read by people as a table', async () => {
    let out = ''
    const terminal = { write: (text: string) => (out += text), isTTY: true }
    const argv = ['doctor', '--file', join(project, 'connections.yaml')]
    const code = await runApp(connectionsApp, { argv, env: {}, stdout: terminal, stderr: terminal }, new AbortController().signal)
    expect([code, out]).toEqual([
      1,
      expect.stringMatching(/orders \(http\): does not work, \d+ ms\n {2}FAILED {2}read the configuration/),
    ])
    expect(out).toContain('0 of 2 connections work')
  })

  it('explains a configuration without its secrets, and the keys of a protocol', async () => {
    const { out } = await call(['explain', 'orders'], { HTTP_TIMEOUT_MS: '7' })
    const lines = JSON.parse(out) as { key: string; value: unknown; origin: string }[]
    expect(lines).toContainEqual({ key: 'username', value: 'me', origin: 'file connections.yaml' })
    expect(lines).toContainEqual({ key: 'timeoutMs', value: 7, origin: 'environment HTTP_TIMEOUT_MS' })
    expect(lines).toContainEqual({ key: 'password', value: 'file:password', origin: 'file connections.yaml' })
    expect(JSON.parse((await call(['explain', 'sqlite', '--keys'])).out)).toContainEqual(
      expect.objectContaining({ path: ['databasePath'], environment: 'SQLITE_DATABASE_PATH', required: true }),
    )
  })

  it('takes no secret from its arguments, and shows none', async () => {
    const wrong = [
      ['--key', 'password=battery staple'],
      ['--url', 'http://me:battery%20staple@localhost'],
      ['--url', 'http://localhost?password=battery%20staple'],
    ]
    for (const argv of wrong) {
      const { code, out, log } = await call(['test', 'http', ...argv])
      expect([code, log]).toEqual([2, expect.stringContaining('CONNECTIONS_CLI_SECRET_IN_ARGUMENTS')])
      expect(out + log).not.toContain('staple')
    }
    const keys = ['--key', `baseUrl=${baseUrl}`, 'username=me', 'password=env:SECRET']
    expect(await call(['test', 'http', ...keys], { SECRET: 'correct horse' })).toMatchObject({ code: 0 })
  })

  it('says what is wrong with what it is given', async () => {
    const wrong: [string[], string][] = [
      [['test'], 'missing required argument'],
      [['test', 'kafka'], 'pnpm add @common-handlers/kafka'],
      [['test', 'nobody', '--file', 'connections.yaml'], 'it has: orders, archive'],
      [['test', 'sqlite', '--key', 'nothing'], 'expected key=value'],
      [['doctor', '--file', 'nowhere.yaml'], 'nowhere.yaml'],
      [['explain', 'sqlite', '--key', 'databasPath=x'], 'did you mean \\"databasePath\\"'],
      [['explain', 'sqlite', '--key', 'databasePath=vault:a#b'], 'no resolver for'],
    ]
    for (const [argv, message] of wrong) {
      const { code, log } = await call(argv)
      expect([argv, code, log]).toEqual([argv, 2, expect.stringContaining(message)])
    }
    const empty = await mkdtemp(join(tmpdir(), 'empty-'))
    const { code, log } = await new Promise<Ended>((resolve) => {
      execFile(process.execPath, [source, main, 'doctor'], { cwd: empty }, (error, out, text) =>
        resolve({ code: Number(error?.code), out, log: text }),
      )
    })
    expect([code, log]).toEqual([2, expect.stringContaining('connections.yaml')])
    await rm(empty, { recursive: true })
  })

  it('ends in order on SIGTERM', async () => {
    const argv = ['test', 'http', '--url', baseUrl, '--key', 'healthPath=/silent']
    const child = spawn(process.execPath, [source, main, ...argv], { cwd: project })
    await once(server, 'request')
    child.kill('SIGTERM')
    expect((await once(child, 'close'))[0]).toBe(143)
  })
})
