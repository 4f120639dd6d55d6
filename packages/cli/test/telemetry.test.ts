import { once } from 'node:events'
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { ConfigError, ConnectionError } from '@common-handlers/core'
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { type App, type AppCommand, Interrupted, runApp } from '../src/index.ts'

const schema = z.strictObject({})
type Run = AppCommand<z.output<typeof schema>>['run']

interface Started {
  readonly code: Promise<number>
  /** What was written to stderr so far, a JSON line each. */
  readonly log: () => Record<string, unknown>[]
  readonly out: () => string
  readonly stop: () => void
}

function start(run: Run, argv: readonly string[], env: Readonly<Record<string, string>> = {}): Started {
  const app: App<typeof schema> = {
    name: 'thing',
    version: '1.2.3',
    description: 'Does a thing',
    envPrefix: 'THING',
    config: async () => schema,
    help: '',
    commands: [
      { name: 'run', summary: 'do it', repeatable: true, run },
      { name: 'look', summary: 'look at it', run },
      { name: 'serve', summary: 'do it until it is stopped', lasting: true, run },
    ],
    resolvers: async () => ({ resolvers: {}, [Symbol.asyncDispose]: async () => undefined }),
  }
  let out = ''
  let err = ''
  const stop = new AbortController()
  const terminal = {
    argv,
    env,
    stdout: { write: (text: string) => (out += text) },
    stderr: { write: (text: string) => (err += text) },
  }
  return {
    code: runApp(app, terminal, stop.signal),
    log: () =>
      err
        .split('\n')
        .filter((line) => line.startsWith('{'))
        .map((line) => JSON.parse(line) as Record<string, unknown>),
    out: () => out,
    stop: () => stop.abort(new Interrupted('SIGTERM')),
  }
}

async function until<T>(look: () => T | undefined): Promise<T> {
  for (;;) {
    const found = look()
    if (found !== undefined) return found
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

const urlOf = (started: Started): Promise<string> =>
  until(() => started.log().find((line) => line['url'] !== undefined)?.['url'] as string | undefined)

describe('--every', () => {
  it('repeats, goes on after a failure that may pass, and ends on SIGTERM', async () => {
    let runs = 0
    const started = start(async () => {
      runs += 1
      if (runs === 2) throw new ConnectionError('no server', { code: 'X_DOWN', retry: 'safe' })
      if (runs === 4) started.stop()
    }, ['run', '--every', '0.01s'])
    expect(await started.code).toBe(143)
    expect(runs).toBe(4)
    expect(started.log().filter((line) => line['exitCode'] === 5)).toHaveLength(1)
  })

  it('does not repeat what the configuration forbids', async () => {
    const started = start(async () => {
      throw new ConfigError('no such table', { code: 'X_CONFIG' })
    }, ['run', '--every', '1h'])
    expect(await started.code).toBe(2)
  })

  it('ends at once while it waits', async () => {
    const ran = Promise.withResolvers<void>()
    const started = start(async () => ran.resolve(), ['run'], { THING_EVERY: '1h' })
    await ran.promise
    started.stop()
    expect(await started.code).toBe(143)
  })

  it('is refused for a command that is not repeated, and for a time that is none', async () => {
    expect(await start(async () => undefined, ['look', '--every', '1s']).code).toBe(2)
    expect(await start(async () => undefined, ['run', '--every', 'often']).code).toBe(2)
    // The variable is for the command that it fits.
    expect(await start(async () => undefined, ['look'], { THING_EVERY: '1s' }).code).toBe(0)
  })
})

describe('--listen', () => {
  it('serves what a command that lasts tells besides, also when the variable asks for it', async () => {
    const go = Promise.withResolvers<void>()
    const started = start(
      async ({ metrics }) => {
        metrics(async () => 'things_waiting 3\n')
        await go.promise
      },
      ['serve'],
      { THING_LISTEN: '127.0.0.1:0' },
    )
    const page = await (await fetch(`${await urlOf(started)}/metrics`)).text()
    expect(page).toMatch(/^common_handlers_running.* 1$/m)
    expect(page).toMatch(/^things_waiting 3$/m)
    go.resolve()
    expect(await started.code).toBe(0)
    expect(await start(async () => undefined, ['serve', '--every', '1s']).code).toBe(2)
  })

  it('serves metrics and health, and stops with the command', async () => {
    const go = Promise.withResolvers<void>()
    const started = start(
      async ({ progress }) => {
        const drawn = progress('move')
        drawn.update({ rows: 10, bytes: 100 })
        drawn.update({ rows: 25, bytes: 300 })
        // The next piece of work counts from zero again.
        drawn.update({ rows: 5, bytes: 50 })
        drawn.end()
        await go.promise
      },
      ['run', '--listen', '127.0.0.1:0'],
    )
    const url = await urlOf(started)
    const metrics = await (await fetch(`${url}/metrics`)).text()
    const value = (name: string): number => Number(new RegExp(`^${name}\\{[^}]*\\} (.*)$`, 'm').exec(metrics)?.[1])
    expect([value('common_handlers_rows_total'), value('common_handlers_bytes_total'), value('common_handlers_running')]).toEqual(
      [30, 350, 1],
    )
    expect(metrics).toContain('process_resident_memory_bytes{app="thing",command="run"}')
    expect(await (await fetch(`${url}/healthz`)).json()).toMatchObject({ app: 'thing', running: true, lastRun: null })
    expect((await fetch(`${url}/`)).status).toBe(404)
    go.resolve()
    expect(await started.code).toBe(0)
    await expect(fetch(`${url}/healthz`)).rejects.toThrow()
  })

  it('is unhealthy after a run that failed, until one ends well', async () => {
    let runs = 0
    const started = start(async () => {
      runs += 1
      if (runs === 1) throw new ConnectionError('no server', { code: 'X_DOWN', retry: 'safe' })
    }, ['run', '--every', '0.5s', '--listen', '127.0.0.1:0'])
    const url = await urlOf(started)
    const status = async (): Promise<number> => (await fetch(`${url}/healthz`)).status
    await until(() => (runs === 1 ? true : undefined))
    const health = start(async () => undefined, ['health', '--listen', url.replace('http://', '')])
    expect(await health.code).toBe(1)
    expect(health.out()).toContain('"outcome":"failed"')
    await until(() => (runs === 2 ? true : undefined))
    expect(await status()).toBe(200)
    started.stop()
    await started.code
  })

  it('says what is wrong with an address', async () => {
    const taken = createServer().listen(0, '127.0.0.1')
    await once(taken, 'listening')
    const { port } = taken.address() as AddressInfo
    const started = start(async () => undefined, ['run', '--listen', `127.0.0.1:${port}`])
    expect(await started.code).toBe(2)
    expect(JSON.stringify(started.log())).toMatch(/EADDRINUSE/)
    taken.close()
    expect(await start(async () => undefined, ['run', '--listen', 'here']).code).toBe(2)
  })
})

describe('health', () => {
  it('is 0 where nothing listens by choice, and 1 where nobody answers', async () => {
    expect(await start(async () => undefined, ['health']).code).toBe(0)
    expect(await start(async () => undefined, ['health'], { THING_LISTEN: '127.0.0.1:1' }).code).toBe(1)
  })
})

describe('--push-metrics', () => {
  // The requests are those of https://github.com/prometheus/pushgateway#put-method.
  it('sends them when the command has ended, and fails nothing', async () => {
    const seen: { method: string; url: string; body: string }[] = []
    const gateway = createServer((request: IncomingMessage, response) => {
      let body = ''
      request.on('data', (chunk) => (body += String(chunk)))
      request.on('end', () => {
        seen.push({ method: request.method ?? '', url: request.url ?? '', body })
        response.end()
      })
    }).listen(0, '127.0.0.1')
    await once(gateway, 'listening')
    const { port } = gateway.address() as AddressInfo
    expect(await start(async () => undefined, ['run', '--push-metrics', `http://127.0.0.1:${port}`]).code).toBe(0)
    expect(seen).toMatchObject([{ method: 'POST', url: '/metrics/job/thing/command/run' }])
    expect(seen[0]?.body).toMatch(/^common_handlers_runs_total\{.*outcome="ok".*\} 1$/m)
    gateway.close()
    gateway.closeAllConnections()
    const unheard = start(async () => undefined, ['run'], { THING_PUSH_METRICS: `http://127.0.0.1:${port}` })
    expect(await unheard.code).toBe(0)
    expect(JSON.stringify(unheard.log())).toContain('could not be pushed')
  })
})
