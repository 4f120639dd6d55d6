import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describeWith } from '@common-handlers/testkit'
import { Outbox } from '@common-handlers/outbox'
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest'
import { ownDatabase } from './harness.ts'

describeWith(['postgres'], 'the program outbox', ({ postgres }) => {
  const own = ownDatabase(postgres)
  const outbox = new Outbox()
  let folder = ''
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'outbox-cli-'))
    await own.run('migrate')
  })
  afterAll(() => rm(folder, { recursive: true, force: true }))
  afterEach(() => own.pool.query('DELETE FROM outbox.event; DELETE FROM outbox.dead_letter; DELETE FROM outbox.paused'))

  const until = async (condition: () => Promise<boolean> | boolean): Promise<void> => {
    const end = performance.now() + 20_000
    while (!(await condition())) {
      if (performance.now() > end) throw new Error('it did not come true')
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }
  const kill = (type: string, count: number) =>
    own.pool.query(
      `INSERT INTO outbox.dead_letter (id, created_at, attempts, crashes, priority, reason, type, payload, error)
        SELECT nextval(pg_get_serial_sequence('outbox.event', 'id')), now(), 3, 0, 0, 'attempts', $1, '{"to":"you"}', 'no'
          FROM generate_series(1, $2)`,
      [type, count],
    )

  it('makes the schema once, after a dry run that does nothing', async () => {
    const schema = ['--set', 'schema=second']
    const dry = await own.run('migrate', '--dry-run', ...schema)
    expect(dry.json()).toMatchObject({ schema: 'second', version: 0, dryRun: true })
    expect(await own.one(`SELECT to_regnamespace('second')::text`)).toBeNull()
    const made = await own.run('migrate', ...schema)
    expect(made.json<{ applied: string[] }>().applied).toEqual(dry.json<{ applied: string[] }>().applied)
    expect((await own.run('migrate', ...schema)).json()).toMatchObject({ applied: [] })
    const missing = await own.run('stats', '--set', 'schema=nowhere')
    expect([missing.code, missing.out]).toEqual([2, expect.stringContaining('outbox migrate')])
  })

  it('works, tells metrics and health, and gives back what it cannot end on SIGTERM', async () => {
    const module = join(folder, 'outbox.config.ts')
    await writeFile(
      module,
      `interface Mail { readonly to: string }
       export default {
         name: 'night shift',
         backoffBaseMs: 600_000,
         handlers: {
           mail: ({ to }: Mail) => { if (to === 'nobody') throw new Error('no such mailbox') },
           long: () => new Promise(() => undefined),
         },
       }`,
    )
    await outbox.enqueueMany(own.pool, [
      { type: 'mail', payload: { to: 'you' } },
      { type: 'mail', payload: { to: 'nobody' } },
      { type: 'long', payload: {} },
    ])
    const running = own.start(['work', module, '--listen', '127.0.0.1:0', '--grace', '1s'])
    const url = (): unknown => running.log().find((line) => typeof line['url'] === 'string')?.['url']
    await until(() => url() !== undefined)
    const metrics = async (): Promise<string> => (await fetch(`${String(url())}/metrics`)).text()
    await until(async () => (await metrics()).includes('outcome="retry"'))
    const page = await metrics()
    expect(page).toContain('outbox_events_settled_total{type="mail",outcome="done"} 1\n')
    expect(page).toContain('outbox_handlers_running 1\n')
    expect(page).toContain('outbox_up 1\n')
    expect(page).toMatch(/^process_cpu_seconds_total/m)
    expect((await fetch(`${String(url())}/healthz`)).status).toBe(200)
    const stats = (await own.run('stats')).json<{ workers: unknown[]; types: unknown[] }>()
    expect(stats.workers).toEqual([expect.objectContaining({ name: 'night shift', alive: true })])
    expect(stats.types).toContainEqual(expect.objectContaining({ type: 'mail', retrying: 1, workers: 1 }))
    running.kill('SIGTERM')
    expect((await running.ended).code).toBe(143)
    // The event is free, and lost no attempt.
    expect(await own.one('SELECT count(*)::int FROM outbox.claim')).toBe(0)
    expect(await own.one(`SELECT attempts FROM outbox.event WHERE type = 'long'`)).toBe(0)
    expect(await own.one('SELECT count(*)::int FROM outbox.worker')).toBe(0)
  })

  it('keeps several processes, and stops them all', async () => {
    const module = join(folder, 'several.config.ts')
    await writeFile(
      module,
      `export default { name: 'one of two', handlers: { who: { needsDb: true, effect: 'tx', handler: async (_: unknown, { getRepository }: any) => {
        await using repository = await getRepository()
        await repository.query('INSERT INTO public.pids SELECT $1 WHERE NOT EXISTS (SELECT FROM public.pids WHERE pid = $1)', [process.pid])
      } } } }`,
    )
    await own.pool.query('CREATE TABLE pids (pid int)')
    const running = own.start(['work', module, '--processes', '2', '--listen', '127.0.0.1:0', '--log-level', 'info'])
    const url = (): unknown => running.log().find((line) => typeof line['url'] === 'string')?.['url']
    await until(() => url() !== undefined)
    const page = async (): Promise<string> => (await fetch(`${String(url())}/metrics`)).text()
    await until(async () => (await page()).includes('outbox_processes{state="running"} 2'))
    const alive = (): Promise<number> => own.one('SELECT count(*)::int FROM outbox.worker')
    await until(async () => (await alive()) === 2)
    await outbox.enqueue(own.pool, { type: 'who', payload: 1 })
    await until(async () => (await own.one('SELECT min(pid) FROM pids')) !== null)
    process.kill(await own.one<number>('SELECT min(pid) FROM pids'), 'SIGKILL')
    await until(async () => (await page()).includes('outbox_process_restarts_total 1'))
    await until(async () => (await page()).includes('outbox_processes{state="running"} 2'))
    running.kill('SIGTERM')
    expect((await running.ended).code).toBe(143)
    expect(await own.one(`SELECT count(*)::int FROM outbox.worker WHERE presence = 'session'`)).toBeLessThan(2)
  })

  it('shows, sends back and deletes dead letters, and does neither without --yes', async () => {
    await kill('mail', 3)
    await kill('other', 1)
    const [first] = (await own.run('list', '--state', 'dead', '--type', 'mail')).json<{ id: string }[]>()
    expect((await own.run('show', first?.id ?? '')).json()).toMatchObject({ type: 'mail', state: 'dead', payload: { to: 'you' } })
    expect((await own.run('show', '99999999')).code).toBe(4)
    expect((await own.run('redrive', '--type', 'mail')).json()).toMatchObject({ dryRun: true, count: 3 })
    expect(await own.one('SELECT count(*)::int FROM outbox.dead_letter')).toBe(4)
    expect((await own.run('redrive', '--ids', first?.id ?? '', '--yes')).json()).toMatchObject({ dryRun: false, count: 1 })
    expect((await own.run('purge', '--type', 'mail')).json()).toMatchObject({ dryRun: true, count: 2 })
    expect((await own.run('purge', '--type', 'mail', '--yes')).json()).toMatchObject({ dryRun: false, count: 2 })
    expect(await own.one(`SELECT array_agg(type) FROM outbox.dead_letter`)).toEqual(['other'])
    expect(await own.one(`SELECT array_agg(type) FROM outbox.event`)).toEqual(['mail'])
  })

  it('pauses, resumes, cancels, and keeps what the policy says', async () => {
    expect((await own.run('pause', 'mail')).json()).toEqual({ type: 'mail', paused: true, changed: true })
    expect(await own.one('SELECT array_agg(type) FROM outbox.paused')).toEqual(['mail'])
    expect((await own.run('resume', 'mail')).json()).toEqual({ type: 'mail', paused: false, changed: true })
    const id = await outbox.enqueue(own.pool, { type: 'mail', payload: { to: 'you' } })
    expect((await own.run('cancel', String(id))).json()).toMatchObject({ id: String(id), payload: { to: 'you' } })
    expect((await own.run('cancel', String(id))).code).toBe(4)
    expect((await own.run('policy', '--archive', '14d')).json()).toEqual({ archiveDays: 14, deadLetterDays: null })
    expect((await own.run('policy', '--dead-letters', '90d', '--archive', 'off')).json()).toEqual({
      archiveDays: null,
      deadLetterDays: 90,
    })
    expect((await own.run('policy')).json()).toEqual({ archiveDays: null, deadLetterDays: 90 })
    expect((await own.run('blocked')).json()).toEqual([])
  })

  it('serves the dashboard until it is stopped, with the token of its configuration', async () => {
    const running = own.start(['dashboard', '--port', '0'], { OUTBOX_TOKEN: 'a token of 24 characters' })
    const url = (): unknown => running.log().find((line) => typeof line['url'] === 'string')?.['url']
    await until(() => url() !== undefined)
    expect((await fetch(String(url()))).status).toBe(200)
    const pause = (token: string): Promise<Response> =>
      fetch(`${String(url())}api/pause`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
        body: '{"type":"mail"}',
      })
    expect([(await pause('another token, as long')).status, (await pause('a token of 24 characters')).status]).toEqual([401, 200])
    running.kill('SIGTERM')
    const { code, out } = await running.ended
    expect(code).toBe(143)
    expect(out).not.toContain('a token of 24 characters')
  })

  it('measures in a schema of its own, and takes it away', async () => {
    const { code, json } = await own.run('bench', '--events', '2000')
    expect(code).toBe(0)
    const steps = json<{ step: string; events: number; perSecond: number; walBytes: number }[]>()
    expect(steps.map(({ step }) => step)).toEqual([
      'enqueue, 1000 at a time',
      'drain, tx',
      'enqueue, 1000 at a time',
      'drain, lease',
    ])
    for (const { perSecond, walBytes } of steps) expect(Math.min(perSecond, walBytes)).toBeGreaterThan(0)
    expect(await own.one(`SELECT count(*)::int FROM pg_namespace WHERE nspname LIKE 'outbox_bench%'`)).toBe(0)
  })

  it('finds the database by its options and variables, and tells what is wrong without a password', async () => {
    const { host, port, user, password, database } = own.address
    const none = { DATABASE_URL: '' }
    const variables = { PGHOST: host, PGPORT: String(port), PGUSER: user, PGPASSWORD: password, PGDATABASE: database }
    expect((await own.start(['stats'], { ...none, ...variables }).ended).code).toBe(0)
    expect((await own.start(['stats', '--url', own.url], none).ended).code).toBe(0)
    expect((await own.start(['stats'], { ...none, OUTBOX_URL: own.url }).ended).code).toBe(0)
    const wrong = own.url.replace(encodeURIComponent(password), 'not-the-password')
    const refused = await own.start(['stats'], { DATABASE_URL: wrong }).ended
    expect([refused.code, refused.out]).toEqual([3, expect.not.stringContaining('not-the-password')])
    expect((await own.start(['stats'], { DATABASE_URL: own.url.replace(database, 'no_such_database') }).ended).code).toBe(4)
    const nobody = await own.start(['stats'], { DATABASE_URL: 'postgres://nobody:hidden-word@127.0.0.1:1/none' }).ended
    expect([nobody.code, nobody.out]).toEqual([5, expect.not.stringContaining('hidden-word')])
  })
})
