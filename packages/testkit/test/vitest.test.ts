import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

const vitest = join(dirname(createRequire(import.meta.url).resolve('vitest/package.json')), 'vitest.mjs')
let emptyFolder: string

beforeAll(async () => {
  emptyFolder = await mkdtemp(join(tmpdir(), 'testkit-vitest-'))
})

afterAll(async () => await rm(emptyFolder, { recursive: true }))

describe('SummaryReporter', () => {
  it('counts tests', async () => {
    expect(await run(['plain'])).toMatchObject({ lastLine: '1 passed, 0 failed', code: 0 })
  })

  it('counts broken hooks and files that do not load as failed', async () => {
    expect(await run(['plain', 'red', 'unloadable'])).toMatchObject({ lastLine: '2 passed, 3 failed', code: 1 })
  })

  it('has the last word when a setup fails', async () => {
    const { lastLine, code, output } = await run(['plain'], { SETUP: 'broken' })
    expect({ lastLine, code }).toEqual({ lastLine: '0 passed, 1 failed', code: 1 })
    expect(output).toContain('this setup is broken')
  })

  it('has the last word when there is no test file', async () => {
    expect(await run(['no-such-file'])).toMatchObject({ lastLine: '0 passed, 1 failed', code: 1 })
  })
})

describe('describeWith', () => {
  it('takes the server of the environment', async () => {
    const vault = createServer((_, response) => response.end('{}'))
    await new Promise<void>((resolve) => vault.listen(0, '127.0.0.1', resolve))
    const { port } = vault.address() as AddressInfo
    const given = { TEST_VAULT_ADDR: `http://127.0.0.1:${port}`, TEST_VAULT_TOKEN: 'token' }
    expect(await run(['server'], given)).toMatchObject({ lastLine: '1 passed, 0 failed', code: 0 })
    vault.close()
  })

  it('skips a suite whose server cannot be had, and the reporter says which and why', async () => {
    const { lastLine, code, output } = await run(['plain', 'server'])
    expect({ lastLine, code }).toEqual({ lastLine: '1 passed, 0 failed', code: 0 })
    expect(output).toMatch(
      /Not run for want of a server:\n {2}server\.fixture\.ts > with a server: openbao cannot be had: .*COMMON_HANDLERS_FETCH is off.*as a container/,
    )
  })

  it('fails in continuous integration instead', async () => {
    const { lastLine, code, output } = await run(['plain', 'server'], { CI: 'true' })
    expect({ lastLine, code }).toEqual({ lastLine: '1 passed, 1 failed', code: 1 })
    expect(output).toContain('openbao cannot be had')
  })

  it('does the same for a server that the suite starts itself', async () => {
    const skipped = await run(['plain', 'unavailable'])
    expect(skipped).toMatchObject({ lastLine: '1 passed, 0 failed', code: 0 })
    expect(skipped.output).toContain('unavailable.fixture.ts > with a server of its own: pgbouncer cannot be had: it is not on')
    expect(await run(['unavailable'], { CI: 'true' })).toMatchObject({ lastLine: '0 passed, 1 failed', code: 1 })
  })
})

/** A run of the fixtures on a machine that has no server and no way to fetch one. */
async function run(
  files: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Promise<{ readonly lastLine: string; readonly code: number; readonly output: string }> {
  const config = join(import.meta.dirname, 'fixtures', 'vitest.config.ts')
  const child = spawn(process.execPath, [vitest, 'run', '--config', config, ...files], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      PATH: '/nowhere',
      HOME: emptyFolder,
      NO_COLOR: '1',
      COMMON_HANDLERS_CACHE: emptyFolder,
      COMMON_HANDLERS_FETCH: 'off',
      DOCKER_HOST: `unix://${emptyFolder}/no-engine.sock`,
      ...environment,
    },
  })
  let output = ''
  let errors = ''
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (errors += chunk.toString()))
  const [code] = (await once(child, 'close')) as [number]
  return { lastLine: output.trimEnd().split('\n').at(-1) ?? '', code, output: output + errors }
}
