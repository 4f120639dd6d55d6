import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { describeWith } from '@common-handlers/testkit'
import { afterEach, beforeAll, beforeEach, expect, it } from 'vitest'
import { Outbox, OutboxSupervisor, type OutboxSupervisorEvents, type OutboxSupervisorOptions } from '../src/index.ts'
import { ownOutbox, until } from './own-outbox.ts'

const execArgv = ['--conditions=@common-handlers/source']
const file = (name: string): URL => new URL(`processes/${name}.ts`, import.meta.url)
const alive = (pid: number | undefined): boolean => {
  try {
    return pid !== undefined && process.kill(pid, 0)
  } catch {
    return false
  }
}

describeWith(['postgres'], 'a supervisor', ({ postgres }) => {
  const own = ownOutbox(postgres)
  const outbox = new Outbox()
  const supervisors: OutboxSupervisor[] = []
  const children: ChildProcess[] = []

  const env = (): Record<string, string> => {
    const { user, password, host, port, database } = own.address
    const login = `${encodeURIComponent(user)}:${encodeURIComponent(password)}`
    return { PATH: process.env['PATH'] ?? '', DATABASE: `postgres://${login}@${host}:${port}/${database}` }
  }
  const supervise = (options: Partial<OutboxSupervisorOptions>) => {
    const ended: OutboxSupervisorEvents['ended'][0][] = []
    const supervisor = new OutboxSupervisor({ workers: 2, execArgv, env: env(), signals: false, backoffBaseMs: 50, ...options })
    supervisor.on('ended', (event) => ended.push(event))
    supervisors.push(supervisor)
    supervisor.start()
    return { supervisor, ended }
  }
  const running = (supervisor: OutboxSupervisor): boolean => supervisor.status().every(({ state }) => state === 'running')
  const put = (count: number, more: (n: number) => object = () => ({})): Promise<void> =>
    own.put(
      'work',
      Array.from({ length: count }, (_, n) => ({ n, ...more(n) })),
    )
  const done = async (count: number): Promise<boolean> => (await own.one<number>('SELECT count(*)::int FROM effect')) >= count
  const expectOnce = async (count: number): Promise<void> => {
    await until(async () => (await own.one<number>('SELECT count(*)::int FROM outbox.event')) === 0, 30_000)
    expect(await own.one('SELECT json_agg(n ORDER BY n) FROM effect')).toEqual(Array.from({ length: count }, (_, n) => n))
    expect(await own.one('SELECT count(*)::int FROM outbox.dead_letter')).toBe(0)
  }

  beforeAll(() => own.pool.query('CREATE TABLE effect (place bigserial, n int, pid int); CREATE TABLE seen (n int PRIMARY KEY)'))
  beforeEach(() => own.pool.query('TRUNCATE effect, seen'))
  afterEach(async () => {
    await Promise.all(supervisors.splice(0).map((supervisor) => supervisor.stop()))
    for (const child of children.splice(0)) child.kill('SIGKILL')
  })

  it.each(['work', 'logged'])(
    'replaces processes that are killed, and every event is done once: %s',
    { timeout: 90_000 },
    async (type) => {
      const { supervisor, ended } = supervise({ module: file('worker'), workers: 3 })
      await until(() => running(supervisor))
      const events = Array.from({ length: 300 }, (_, n) => ({ type, payload: { n, waitMs: 10 } }))
      await (type === 'work' ? outbox.enqueueMany(own.pool, events) : outbox.appendMany(own.pool, events))
      for (let kill = 0; kill < 4; kill++) {
        const before = await own.one<number>('SELECT count(*)::int FROM effect')
        await until(() => done(before + 20))
        // Of the log, the one that reads.
        const reader = await own.one<number | undefined>('SELECT pid FROM effect ORDER BY place DESC LIMIT 1')
        const victim = supervisor.status().find(({ pid, state }) => state === 'running' && (type === 'work' || pid === reader))
        if (victim?.pid !== undefined) process.kill(victim.pid, 'SIGKILL')
      }
      await until(() => done(300), 60_000)
      await expectOnce(300)
      if (type === 'logged')
        expect(await own.one('SELECT json_agg(n ORDER BY place) FROM effect')).toEqual(events.map(({ payload }) => payload.n))
      expect(ended.filter(({ signal, reason }) => signal === 'SIGKILL' && reason === 'exit').length).toBeGreaterThan(1)
      await until(() => running(supervisor))
      const replaced = supervisor.status().map(({ restarts }) => restarts)
      expect(replaced.reduce((sum, restarts) => sum + restarts)).toBe(ended.length)
    },
  )

  it('kills a process whose event loop is blocked, and outlives events that kill theirs', { timeout: 90_000 }, async () => {
    const { supervisor, ended } = supervise({ module: file('worker'), hangTimeoutMs: 2000 })
    await until(() => running(supervisor))
    await put(40, (n) => (n === 7 ? { first: 'hang' } : n === 23 ? { first: 'die' } : {}))
    await expectOnce(40)
    expect(ended.map(({ reason }) => reason).toSorted()).toContain('hung')
    expect(ended.map(({ reason }) => reason)).toContain('exit')
  })

  it('waits longer and longer for a process that ends at once', async () => {
    const { supervisor, ended } = supervise({ script: file('odd'), args: ['exit'], workers: 1, backoffMaxMs: 300 })
    await until(() => ended.length >= 5)
    expect(ended.slice(0, 5).map(({ restartInMs, code }) => [restartInMs, code])).toEqual(
      [50, 100, 200, 300, 300].map((wait) => [wait, 3]),
    )
    await supervisor.stop()
    expect(supervisor.status()).toMatchObject([{ state: 'stopped', pid: undefined }])
  })

  it('begins its back-off anew when a process has lived for a while', async () => {
    const { supervisor, ended } = supervise({ script: file('odd'), workers: 1, stableMs: 600 })
    const kill = async (stable: boolean): Promise<void> => {
      await until(() => running(supervisor))
      await until(() => !stable || (supervisor.status()[0]?.upMs ?? 0) > 700)
      process.kill(supervisor.status()[0]?.pid ?? 0, 'SIGKILL')
      const count = ended.length
      await until(() => ended.length > count)
    }
    await kill(false)
    await kill(false)
    await kill(true)
    const waits = ended.map(({ restartInMs }) => restartInMs)
    expect(waits.at(-1)).toBe(50)
  })

  it('replaces all of them one by one, and no event is lost or done twice', { timeout: 90_000 }, async () => {
    const { supervisor, ended } = supervise({ module: file('worker') })
    await until(() => running(supervisor))
    const before = supervisor.status().map(({ pid }) => pid)
    let fewest = 2
    const watch = setInterval(() => {
      fewest = Math.min(fewest, supervisor.status().filter(({ state }) => state === 'running').length)
    }, 5)
    await put(300, () => ({ waitMs: 5 }))
    await until(() => done(10))
    await supervisor.rollingRestart()
    clearInterval(watch)
    const after = supervisor.status()
    expect(after.map(({ state }) => state)).toEqual(['running', 'running'])
    for (const { pid } of after) expect(before).not.toContain(pid)
    expect(fewest).toBe(1)
    expect(ended.map(({ reason, code }) => [reason, code])).toEqual([
      ['stopped', 0],
      ['stopped', 0],
    ])
    await expectOnce(300)
  })

  it('says so when a new process does not begin', async () => {
    const { supervisor } = supervise({ script: file('odd'), args: ['never'], workers: 1, startTimeoutMs: 600 })
    await expect(supervisor.rollingRestart()).rejects.toMatchObject({ code: 'OUTBOX_RESTART_FAILED' })
  })

  it('kills what does not stop within the grace', async () => {
    const { supervisor, ended } = supervise({ script: file('odd'), args: ['stubborn'], graceMs: 300 })
    await until(() => running(supervisor))
    await supervisor.stop()
    expect(ended.map(({ signal, reason, restartInMs }) => [signal, reason, restartInMs])).toEqual([
      ['SIGKILL', 'stopped', undefined],
      ['SIGKILL', 'stopped', undefined],
    ])
  })

  it('replaces a process that has more memory than it may', async () => {
    const { supervisor, ended } = supervise({ script: file('odd'), args: ['heavy'], workers: 1, maxRssMb: 150, stableMs: 300 })
    await until(() => ended.length > 0)
    expect(ended[0]).toMatchObject({ reason: 'stopped', code: 0 })
    await until(() => running(supervisor))
    expect(supervisor.status()[0]?.rssMb).toBeGreaterThan(150)
  })

  it.each(['SIGTERM', 'SIGKILL'] as const)('leaves no process behind when it gets %s', { timeout: 60_000 }, async (signal) => {
    const program = fork(file('supervise'), { execArgv, env: env() })
    children.push(program)
    const [pids] = (await once(program, 'message', { signal: AbortSignal.timeout(20_000) })) as [number[]]
    expect(pids.every(alive)).toBe(true)
    await put(40, () => ({ waitMs: 20 }))
    await until(() => done(5))
    const exit = once(program, 'exit', { signal: AbortSignal.timeout(20_000) })
    program.kill(signal)
    const [code] = (await exit) as [number | null]
    expect(code).toBe(signal === 'SIGTERM' ? 0 : null)
    await until(() => !pids.some(alive))
    // What was not begun is there for the next ones.
    supervise({ module: file('worker') })
    await expectOnce(40)
  })

  it('refuses what it cannot do', () => {
    const refused = expect.objectContaining({ code: 'OUTBOX_CONFIG_INVALID' })
    expect(() => new OutboxSupervisor({ workers: 0, module: 'a.ts' })).toThrow(refused)
    expect(() => new OutboxSupervisor({ workers: 1 })).toThrow(refused)
    expect(() => new OutboxSupervisor({ workers: 1, module: 'a.ts', script: 'b.ts' })).toThrow(refused)
  })
})
