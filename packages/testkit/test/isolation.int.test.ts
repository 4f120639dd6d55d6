import { execFile } from 'node:child_process'
import { generateKeyPairSync } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { connectors, driversOf, installAlone, packConnectors } from './isolated-project.ts'
import { buildWorkspace, root } from './workspace-build.ts'

// For each connector an empty project with the façade and that connector only: it works, and every other protocol answers
// with the command that installs it.

/** Run in the project: finds the connector, opens what its example file describes on a port where nobody is, asks for the others. */
const program = (protocol: string, others: readonly string[]): string => `
  import { readFileSync } from 'node:fs'
  import { createConnections } from '@common-handlers/connections'
  const [example, key] = process.argv.slice(1)
  const nobody = (value) =>
    typeof value === 'string'
      ? value.replace(/[\\w.-]*\\bexample\\.com(:\\d+)?/, (_host, port) => '127.0.0.1' + (port === undefined ? '' : ':1')).replace('/data/app.db', ':memory:')
      : Array.isArray(value) ? value.map(nobody) : value
  const { protocol, ...config } = JSON.parse(readFileSync(example, 'utf8'))
  for (const name of Object.keys(config)) config[name] = nobody(config[name])
  const resolvers = { env: () => 'a secret', file: () => key }
  await using connections = createConnections({ discover: process.cwd(), variables: {}, resolvers })
  const keys = await connections.keys('${protocol}')
  for (const { path } of keys) {
    if (path.join('.') === 'port') config.port = 1
    // Most examples leave it to the environment.
    if (path.join('.') === 'password') config.password = 'a secret'
  }
  const outcome = async (work) => work.then(() => 'opened', ({ code, outcome, message }) => ({ code, outcome, message }))
  const opened = await outcome(connections.getConnection('${protocol}', config, { timeoutMs: 5_000 }))
  const absent = []
  for (const other of ${JSON.stringify(others)}) absent.push((await outcome(connections.getConnection(other))).message)
  console.log(JSON.stringify({ protocols: connections.protocols, opened, absent }))
  process.exit()`

/** As a secret that is read from a file: also a key of a service account, whose server is not there. */
const key = JSON.stringify({
  type: 'service_account',
  client_email: 'nobody@example.com',
  token_uri: 'http://127.0.0.1:1/token',
  private_key: generateKeyPairSync('rsa', {
    modulusLength: 2048,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  }).privateKey,
})

describe('a project with one connector', () => {
  let folder: string
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'isolation-'))
    await buildWorkspace()
    await packConnectors(folder)
  }, 180_000)
  afterAll(() => rm(folder, { recursive: true, force: true }))

  it.concurrent('and with the program, which finds it', { timeout: 240_000 }, async () => {
    const project = await installAlone(folder, 'connections-cli', 'sqlite')
    const call = async (...args: string[]): Promise<unknown> => {
      const file = join(project.folder, 'node_modules/.bin/connections')
      return JSON.parse((await promisify(execFile)(process.execPath, [file, ...args], { cwd: project.folder })).stdout)
    }
    const found = (await call('list')) as { protocol: string; install?: string }[]
    expect(found.filter(({ install }) => install === undefined).map(({ protocol }) => protocol)).toEqual(['http', 'sqlite'])
    expect(await call('test', 'sqlite', '--key', 'databasePath=:memory:')).toMatchObject({ protocol: 'sqlite', ok: true })
  })

  it.concurrent.each(connectors)('%s', { timeout: 240_000 }, async (protocol) => {
    const others = connectors.filter((name) => name !== protocol)
    const project = await installAlone(folder, protocol)
    const own = new Set([...driversOf(protocol), ...driversOf('connections')])
    const foreign = others.flatMap(driversOf).filter((driver) => !own.has(driver))
    expect(foreign.filter((driver) => existsSync(join(project.folder, 'node_modules', driver)))).toEqual([])

    const example = join(root, 'packages/connectors', protocol, 'examples', `${protocol}.example.json`)
    const args = ['--input-type=module', '-e', program(protocol, others), example, key]
    const { PATH = '', HOME = '' } = process.env
    const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: project.folder, env: { PATH, HOME } })
    const { protocols, opened, absent } = JSON.parse(stdout) as { protocols: string[]; opened: unknown; absent: string[] }
    expect(protocols).toEqual(['http', protocol].toSorted())
    // A file in memory is always there.
    expect(opened).toEqual(
      protocol === 'sqlite'
        ? 'opened'
        : expect.objectContaining({ outcome: expect.stringMatching(/^(connection|timeout)$/) as string }),
    )
    expect(absent).toEqual(
      others.map((name) => expect.stringContaining(`Install it: npm install @common-handlers/${name}`) as string),
    )
  })
})
