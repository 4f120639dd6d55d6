import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { inspect } from 'node:util'
import { describe, expect, it } from 'vitest'
import { freePorts } from '../servers/ports.ts'

interface CallOptions {
  readonly signal?: AbortSignal
  readonly timeoutMs?: number
}

/** What every handler has, whatever it speaks to. */
export interface HandlerLike extends AsyncDisposable {
  close(): Promise<void>
  check(options?: CallOptions): Promise<{
    readonly target: string
    readonly ok: boolean
    readonly durationMs: number
    readonly steps: readonly { readonly name: string; readonly ok: boolean; readonly error?: { readonly code: string } }[]
  }>
}

/** A handler under the suite. */
export interface HandlerCase<H extends HandlerLike> {
  /** The beginning of its error codes: `POSTGRES`. */
  readonly prefix: string
  readonly create: (options: never) => H
  /** Options for a server that answers. */
  readonly options: object
  /** The same options for another port of this machine; absent where there is no server. */
  readonly at?: (port: number) => object
  /** What may not be seen anywhere; part of `options`. */
  readonly secret?: string
  /** The plainest call that goes to the server. */
  readonly call: (handler: H, options: CallOptions) => Promise<unknown>
}

const failure = async (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => {
      throw new Error('the call did not fail')
    },
    (error: unknown) => error,
  )

/** The contract of a handler, the same for all of them: how it is made, called, checked, stopped and closed. */
export function handlerConformance<H extends HandlerLike>(
  title: string,
  { prefix, create, options, at, secret, call }: HandlerCase<H>,
): void {
  const make = (given: object): H => create(given as never)

  describe(`${title} as a handler`, () => {
    it('answers a call, and connects by itself', async () => {
      await using handler = make(options)
      const [answer] = await Promise.allSettled([call(handler, {})])
      expect(answer.status, inspect(answer)).toBe('fulfilled')
    })

    it('refuses options that it does not know, and says which', () => {
      expect(() => make({ ...options, notAnOption: 1 })).toThrow(
        expect.objectContaining({
          code: `${prefix}_CONFIG_INVALID`,
          outcome: 'config',
          message: expect.stringContaining('notAnOption') as string,
        }) as Error,
      )
    })

    it('leaves the options as they were given', async () => {
      const frozen = deepFreeze(structuredClone(options))
      await using handler = make(frozen)
      await call(handler, {})
      expect(frozen).toEqual(options)
    })

    it('says in check() what was tried and how long it took', async () => {
      await using handler = make(options)
      const result = await handler.check()
      expect(result, JSON.stringify(result)).toMatchObject({ ok: true, target: expect.any(String) as string })
      expect(result.steps.length).toBeGreaterThan(0)
      expect(result.durationMs).toBeGreaterThan(0)
      if (secret !== undefined) expect(JSON.stringify(result)).not.toContain(secret)
    })

    it('rejects with the reason of a signal that is aborted before the call', async () => {
      await using handler = make(options)
      const reason = new RangeError('changed my mind')
      expect(await failure(call(handler, { signal: AbortSignal.abort(reason) }))).toBe(reason)
    })

    it('closes as often as it is asked, and takes no call afterwards', async () => {
      const handler = make(options)
      await call(handler, {})
      await Promise.all([handler.close(), handler.close()])
      await handler.close()
      await handler[Symbol.asyncDispose]()
      expect(await failure(call(handler, {}))).toMatchObject({ code: `${prefix}_CLOSED` })
    })

    it('closes without ever having been used', async () => {
      expect(await make(options).close()).toBeUndefined()
    })

    it('waits in close() for the call under way', async () => {
      const handler = make(options)
      await call(handler, {})
      const [answer] = await Promise.allSettled([call(handler, {}), handler.close()])
      expect(answer.status, inspect(answer)).toBe('fulfilled')
    })

    it('shows no secret when it is printed', async () => {
      await using handler = make(options)
      await call(handler, {})
      const printed = inspect(handler, { depth: 12, showHidden: true }) + JSON.stringify(handler, withoutCycles())
      if (secret !== undefined) expect(printed).not.toContain(secret)
      expect(printed).not.toBe('')
    })
  })

  if (at === undefined) return
  describe(`${title} without a server that answers`, () => {
    it('does no work when it is made', async () => {
      let connections = 0
      await using server = await listening(() => connections++)
      const handler = make(at(server.port))
      await sleep(50)
      await handler.close()
      expect(connections).toBe(0)
    })

    it('reports a server that is not there, in time, in check() without throwing, and closes', async () => {
      const [port = 0] = await freePorts(1)
      const handler = make(at(port))
      const error = await failure(call(handler, { timeoutMs: 1000 }))
      expect(error).toMatchObject({ outcome: expect.stringMatching(/^(connection|timeout)$/) as string })
      const result = await handler.check({ timeoutMs: 5000 })
      expect(result.ok).toBe(false)
      expect(result.steps.at(-1)?.error?.code).toMatch(new RegExp(`^${prefix}_`))
      if (secret !== undefined)
        expect(inspect(error, { depth: 12, showHidden: true }) + JSON.stringify(result)).not.toContain(secret)
      await handler.close()
    })

    it('ends a call to a server that says nothing by its time-out, or by its signal with the reason', async () => {
      await using server = await listening()
      const handler = make(at(server.port))
      try {
        expect(await failure(call(handler, { timeoutMs: 300 }))).toMatchObject({
          outcome: 'timeout',
          code: expect.stringMatching(/_TIMEOUT$/) as string,
        })
        const abort = new AbortController()
        const reason = new RangeError('changed my mind')
        setTimeout(() => abort.abort(reason), 100)
        expect(await failure(call(handler, { signal: abort.signal }))).toBe(reason)
      } finally {
        await handler.close()
      }
    })
  })
}

/** A server that takes connections and says nothing. */
async function listening(onConnection: () => void = () => undefined): Promise<{ readonly port: number } & AsyncDisposable> {
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    onConnection()
    sockets.add(socket)
    socket.on('error', () => undefined)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  return {
    port: typeof address === 'object' && address !== null ? address.port : 0,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) {
    for (const inner of Object.values(value)) deepFreeze(inner)
    Object.freeze(value)
  }
  return value
}

function withoutCycles(): (key: string, value: unknown) => unknown {
  const seen = new Set<unknown>()
  return (_key, value) => {
    if (typeof value === 'bigint') return String(value)
    if (typeof value !== 'object' || value === null) return value
    if (seen.has(value)) return undefined
    seen.add(value)
    return value
  }
}
