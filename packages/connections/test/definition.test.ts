import { type CallOptions, type CheckResult, silentLogger } from '@common-handlers/core'
import { expect, it } from 'vitest'
import { addressIn, handlerLife, loginIn, pathIn } from '../src/index.ts'

it('takes from a URL what stands in it, decoded, and leaves the rest to other layers', () => {
  const whole = new URL('thing://a%40b:p%2Fw@[::1]:99/my%20place')
  expect({ ...addressIn(whole), ...loginIn(whole), ...pathIn(whole, 'place') }).toEqual({
    host: '::1',
    port: 99,
    username: 'a@b',
    password: 'p/w',
    place: 'my place',
  })
  const bare = new URL('thing://user@host/')
  expect({ ...addressIn(bare), ...loginIn(bare), ...pathIn(bare, 'place') }).toEqual({ host: 'host', username: 'user' })
})

it('closes what could not connect, and what was tested', async () => {
  const happened: string[] = []
  const create = (config: { readonly name: string; readonly broken?: boolean }) =>
    Promise.resolve({
      connect: async (): Promise<void> => {
        happened.push(`connect ${config.name}`)
        if (config.broken === true) throw new RangeError('broken')
      },
      check: async (_options?: CallOptions): Promise<CheckResult> => ({
        target: config.name,
        ok: true,
        durationMs: 0,
        steps: [],
      }),
      close: async (): Promise<void> => void happened.push(`close ${config.name}`),
      [Symbol.asyncDispose]: async (): Promise<void> => void happened.push(`close ${config.name}`),
    })
  const life = handlerLife(create, ({ name }) => ({ name: `${name} for a test` }))
  const context = { signal: new AbortController().signal, logger: silentLogger }
  await life.open({ name: 'a' }, context)
  expect(happened.splice(0)).toEqual(['connect a'])
  await expect(life.open({ name: 'b', broken: true }, context)).rejects.toThrow(RangeError)
  expect(happened.splice(0)).toEqual(['connect b', 'close b'])
  expect((await life.test({ name: 'c' }, context)).target).toBe('c for a test')
  expect(happened).toEqual(['close c for a test'])
})
