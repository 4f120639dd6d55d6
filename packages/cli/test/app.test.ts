import { spawn } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ConfigError, ConflictError, environmentResolver, NotFoundError, secret } from '@common-handlers/core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { type App, type AppCommand, exitCodeOf, exitCodes, runApp } from '../src/index.ts'

const schema = z.strictObject({
  store: z.string().describe('where the runs are'),
  size: z.number().default(1),
  password: secret().optional(),
})
type Config = z.output<typeof schema>

const appWith = (run: AppCommand<Config>['run']): App<typeof schema> & { disposed: number } => ({
  name: 'thing',
  version: '1.2.3',
  description: 'Does a thing',
  envPrefix: 'THING',
  config: async () => schema,
  help: 'Start with: thing run --set store=file:///data',
  commands: [{ name: 'run', summary: 'do it', options: [{ flags: '--fast', description: 'do it fast' }], run }],
  disposed: 0,
  async resolvers() {
    const app = this as unknown as { disposed: number }
    return {
      resolvers: { env: environmentResolver({ STORE: 'file:///from-reference' }) },
      [Symbol.asyncDispose]: async () => void app.disposed++,
    }
  },
})

async function call(
  run: AppCommand<Config>['run'],
  argv: string[],
  {
    env = {},
    tty = false,
    signal = new AbortController().signal,
  }: { env?: Record<string, string>; tty?: boolean; signal?: AbortSignal } = {},
): Promise<{ code: number; out: string; err: string; disposed: number }> {
  let out = ''
  let err = ''
  const app = appWith(run)
  const stdout = { write: (text: string) => (out += text), isTTY: tty }
  const stderr = { write: (text: string) => (err += text), isTTY: tty, columns: 100 }
  const code = await runApp(app, { argv, env, stdout, stderr }, signal)
  return { code, out, err, disposed: app.disposed }
}

describe('runApp', () => {
  it('gives a command its arguments, and refuses too few and too many', async () => {
    let seen: unknown
    const given = async (...argv: string[]): Promise<[number, string]> => {
      const base = appWith(async ({ options }) => void (seen = options['name']))
      const [command] = base.commands
      const app = {
        ...base,
        commands: command === undefined ? [] : [{ ...command, arguments: [{ name: 'name', description: 'whose' }] }],
      }
      let err = ''
      const write = (text: string): unknown => (err += text)
      const code = await runApp(app, { argv, env: {}, stdout: { write }, stderr: { write } }, new AbortController().signal)
      return [code, err]
    }
    expect((await given('run', 'seven', '--set', 'store=file:///a'))[0]).toBe(0)
    expect(seen).toBe('seven')
    expect(await given('run', '--set', 'store=file:///a')).toEqual([
      2,
      expect.stringContaining("missing required argument 'name'"),
    ])
    expect((await given('run', 'a', 'b', '--set', 'store=file:///a'))[0]).toBe(2)
    expect(await given('run', '--help')).toEqual([0, expect.stringContaining('whose')])
  })

  it('gives a command its configuration, options and a place to print', async () => {
    const { code, out, disposed } = await call(
      async ({ config, options, print }) =>
        print({ text: 'for a person', json: { store: config.store, fast: options['fast'], big: 2n ** 60n } }),
      ['run', '--fast', '--set', 'store=file:///a', '--set', 'size=3'],
    )
    expect([code, disposed]).toEqual([0, 1])
    expect(JSON.parse(out)).toEqual({ store: 'file:///a', fast: true, big: '1152921504606846976' })
  })

  it('prints text for a person on a terminal, and JSON there too when asked', async () => {
    const run: AppCommand<Config>['run'] = async ({ print }) => print({ text: 'for a person', json: 1 })
    expect((await call(run, ['run', '--set', 'store=x'], { tty: true })).out).toBe('for a person\n')
    expect((await call(run, ['--json', 'run', '--set', 'store=x'], { tty: true })).out).toBe('1\n')
  })

  it('takes options before and after the command', async () => {
    const run: AppCommand<Config>['run'] = async ({ config, print }) => print({ text: '', json: config.size })
    expect((await call(run, ['--set', 'store=x', 'run', '--set', 'size=5'])).out).toBe('5\n')
  })

  it.each([
    ['a wrong option', ['run', '--wrong'], /unknown option '--wrong'/],
    ['a wrong command', ['rum'], /unknown command 'rum'[\s\S]*Did you mean run\?/],
    ['no command', [], /Usage: thing/],
    ['--set without a value', ['run', '--set', 'store'], /--set store: expected key=value/],
    ['an unknown key', ['run', '--set', 'stroe=x'], /did you mean \\?"store/],
  ])('ends with 2 and says what to do after %s', async (_name, argv, message) => {
    const { code, err } = await call(async () => undefined, argv)
    expect(code).toBe(2)
    expect(err).toMatch(message)
  })

  it('teaches: help names the commands, the exit codes and where to start', async () => {
    const { code, out } = await call(async () => undefined, ['--help'])
    expect(code).toBe(0)
    for (const part of ['run', 'explain-config', 'Start with:', 'Exit codes:', '143']) expect(out).toContain(part)
    expect((await call(async () => undefined, ['--version'])).out).toBe('1.2.3\n')
  })

  it('ends with the code of the error, in a JSON log line or as text, without secrets', async () => {
    const fail: AppCommand<Config>['run'] = async () => {
      throw new ConflictError('run 7 is taken, said http://u:hunter-22@host', { code: 'THING_TAKEN' })
    }
    const machine = await call(fail, ['run', '--set', 'store=x'])
    expect(machine.code).toBe(7)
    expect(JSON.parse(machine.err)).toMatchObject({ level: 'error', error: { code: 'THING_TAKEN' }, exitCode: 7 })
    const person = await call(fail, ['run', '--set', 'store=x'], { tty: true })
    expect(person.err).toBe('error: run 7 is taken, said http://u:[secret]@host\n       (THING_TAKEN)\n')
    expect(machine.err).not.toContain('hunter-22')
  })

  it('strikes known secrets out of logs and results', async () => {
    const { out, err } = await call(
      async ({ config, logger, print }) => {
        logger.info({ seen: config.password?.expose() }, 'careless')
        print({ text: '', json: { careless: config.password?.expose() } })
      },
      ['run', '--set', 'store=x'],
      { env: { THING_PASSWORD: 'planted-password' } },
    )
    expect(out + err).not.toContain('planted-password')
    expect(JSON.parse(out)).toEqual({ careless: '[secret]' })
  })

  it('explains the configuration, and lists every key without having one', async () => {
    const argv = ['explain-config', '--set', 'store=env:STORE']
    const { out } = await call(async () => undefined, argv, { env: { THING_PASSWORD: 'planted-password' } })
    expect(JSON.parse(out)).toEqual([
      { key: 'password', value: '[secret]', origin: 'environment THING_PASSWORD' },
      { key: 'size', value: 1, origin: 'default' },
      { key: 'store', value: 'env:STORE', origin: 'override' },
    ])
    const keys = await call(async () => undefined, ['explain-config', '--keys'], { tty: true })
    expect(keys.out).toContain('THING_STORE')
    expect(keys.out).toContain('where the runs are')
  })
})

describe('exitCodeOf', () => {
  it('lets a reference that could not be read end as what it failed of', () => {
    const cause = new NotFoundError('no such secret', { code: 'VAULT_SECRET_NOT_FOUND' })
    expect(exitCodeOf(new ConfigError('password', { code: 'CONFIG_REFERENCE_UNRESOLVED', cause }))).toBe(exitCodes.notFound)
    expect(exitCodeOf(new ConfigError('password', { code: 'CONFIG_REFERENCE_UNRESOLVED' }))).toBe(exitCodes.usage)
    expect(exitCodeOf(new TypeError('a bug'))).toBe(exitCodes.failed)
  })
})

describe('main', () => {
  let folder: string
  beforeAll(async () => {
    folder = await mkdtemp(join(import.meta.dirname, 'main-'))
    const source = `
      import { main } from '../../src/main.ts'
      import { z } from 'zod'
      await main(async () => ({ name: 'slow', version: '1', description: 'x', envPrefix: 'SLOW', config: async () => z.strictObject({}), help: '',
        resolvers: async () => ({ resolvers: {}, [Symbol.asyncDispose]: async () => {} }),
        commands: [{ name: 'run', summary: 'waits', run: async ({ signal, logger }) => {
          logger.info({}, 'waiting')
          try { await new Promise((_, reject) => { const t = setInterval(() => {}, 1000); signal.addEventListener('abort', () => { clearInterval(t); reject(signal.reason) }) }) }
          finally { logger.info({}, 'cleaned up') } } }] }))`
    await writeFile(join(folder, 'slow.ts'), source)
  })
  afterAll(() => rm(folder, { recursive: true }))

  it.each([
    ['SIGTERM', 143],
    ['SIGINT', 130],
  ] as const)('%s lets the command clean up, then ends with %i', async (name, code) => {
    const child = spawn(process.execPath, ['--conditions=@common-handlers/source', join(folder, 'slow.ts'), 'run'], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    let err = ''
    child.stderr.on('data', (chunk: Buffer) => {
      if (!err.includes('waiting') && String(chunk).includes('waiting')) child.kill(name)
      err += String(chunk)
    })
    const ended = await new Promise((resolve) => child.on('close', (status, killedBy) => resolve({ status, killedBy })))
    expect(ended).toEqual({ status: code, killedBy: null })
    expect(err).toContain('cleaned up')
  })

  it('ends at once by a signal that comes while the app is loaded', async () => {
    const source = `
      import { main } from '../../src/main.ts'
      await main(() => { process.stdout.write('loading'); return new Promise(() => setInterval(() => {}, 1000)) })`
    await writeFile(join(folder, 'loading.ts'), source)
    const child = spawn(process.execPath, ['--conditions=@common-handlers/source', join(folder, 'loading.ts')], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    child.stdout.once('data', () => child.kill('SIGTERM'))
    expect(await new Promise((resolve) => child.on('close', (status) => resolve(status)))).toBe(143)
  })
})
