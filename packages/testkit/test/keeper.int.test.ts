import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { describeWith } from '@common-handlers/testkit/vitest'
import { anyRunning } from '../src/servers/process-tree.ts'
import { listenersOf } from './process-check.ts'

let temporary: string

beforeEach(async () => {
  temporary = await mkdtemp(join(tmpdir(), 'testkit-keeper-'))
  await chmod(temporary, 0o755)
})

afterEach(async () => await rm(temporary, { recursive: true }))

interface Told {
  readonly pids: readonly number[]
  readonly address: { readonly url: string; readonly token: string }
  readonly answers: readonly { readonly state: string; readonly address: { readonly url?: string } }[]
}

describeWith(['postgres', 'openbao', 'versitygw'], 'when the parent is killed with -9', () => {
  it('the keeper stops every server that it has started', async () => {
    const { told, kill } = await startParent('keeper')
    // Single flight: who asks for the same kind gets the same server, and plain data of it.
    expect(told.answers.map(({ state }) => state)).toEqual(['ready', 'ready', 'ready'])
    expect(told.answers[0]).toEqual(told.answers[1])
    expect(told.answers[0]?.address).toMatchObject({ kind: 'postgres', host: '127.0.0.1' })
    expect((await fetch(`${told.address.url}/postgres`)).status).toBe(401)
    const headers = { authorization: `Bearer ${told.address.token}` }
    expect((await fetch(`${told.address.url}/nonsense`, { headers })).status).toBe(404)
    expect((await listenersOf(told.pids)).filter(({ host }) => host !== 'loopback')).toEqual([])

    await kill()
    await nothingLeft(told.pids)
  })

  it('the reaper stops what a test has started by itself', async () => {
    const { told, kill } = await startParent('launchers')
    expect(await anyRunning(told.pids)).toBe(true)
    await kill()
    await nothingLeft(told.pids)
  })
})

async function nothingLeft(pids: readonly number[]): Promise<void> {
  expect(pids.length).toBeGreaterThan(2)
  await expect.poll(() => anyRunning(pids), { timeout: 15_000 }).toBe(false)
  await expect.poll(() => readdir(temporary), { timeout: 15_000 }).toEqual([])
}

async function startParent(what: 'keeper' | 'launchers'): Promise<{ readonly told: Told; kill(): Promise<void> }> {
  const child = spawn(process.execPath, [fileURLToPath(new URL('fixtures/parent.ts', import.meta.url)), what], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, NODE_OPTIONS: '', TMPDIR: temporary },
  })
  const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string]
  return {
    told: JSON.parse(line) as Told,
    async kill() {
      child.kill('SIGKILL')
      await once(child, 'exit')
    },
  }
}
