import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { runApp } from '@common-handlers/cli'
import { ConnectionError, HandlerError } from '@common-handlers/core'
import { describe, expect, it } from 'vitest'
import { asCommandError } from '../src/errors.ts'
import { outboxApp } from '../src/index.ts'
import { version } from '../src/version.ts'

async function call(...argv: string[]): Promise<{ code: number; out: string }> {
  let out = ''
  const stream = { write: (text: string) => (out += text) }
  const code = await runApp(outboxApp, { argv, env: {}, stdout: stream, stderr: stream }, new AbortController().signal)
  return { code, out }
}

describe('the program', () => {
  it('has the version of its package', () => {
    const manifest = JSON.parse(readFileSync(join(import.meta.dirname, '../package.json'), 'utf8')) as { version: string }
    expect(version).toBe(manifest.version)
  })

  it('explains itself and each of its commands, with an example', async () => {
    const { code, out } = await call('--help')
    expect(code).toBe(0)
    for (const { name, summary } of outboxApp.commands) {
      expect(out.replace(/\s+/g, ' ')).toContain(summary)
      const help = await call(name, '--help')
      expect(help.code).toBe(0)
      expect(help.out, name).toMatch(new RegExp(`\\n\\s+(OUTBOX_TOKEN=\\S+ )?outbox ${name}`))
    }
  })

  it('refuses what it does not know, before it connects', async () => {
    const wrong: [string[], string][] = [
      [['show'], 'missing required argument'],
      [['show', 'seven'], 'id seven: expected a number'],
      [['list', '--state', 'lost'], 'expected one of ready'],
      [['redrive', '--yes'], 'which dead letters?'],
      [['purge', '--older-than', 'long'], '--older-than long'],
      [['policy', '--archive', '7'], '--archive 7: expected days'],
      [['bench', '--events', '0'], '--events'],
      [['stats', '--url', 'mysql://localhost'], 'begins with postgres://'],
      [['work', 'nothing.ts'], 'it cannot be loaded'],
      [['work', join(import.meta.dirname, '../src/version.ts')], 'its default export is'],
    ]
    for (const [argv, message] of wrong) {
      const { code, out } = await call(...argv)
      expect([argv, code, out]).toEqual([argv, 2, expect.stringContaining(message)])
    }
  })

  it('ends with the code for what the server answered', () => {
    const answer = (code: string): Error => Object.assign(new Error('no'), { code })
    const outcomes = Object.fromEntries(
      ['28P01', '28000', '3D000', '42501', '57014', '53300', '22P02'].map((code) => {
        const error = asCommandError(answer(code))
        return [code, HandlerError.is(error) ? error.outcome : undefined]
      }),
    )
    expect(outcomes).toEqual({
      '28P01': 'auth',
      '28000': 'auth',
      '3D000': 'not-found',
      '42501': 'permission',
      '57014': 'timeout',
      '53300': 'capacity',
      '22P02': 'remote',
    })
    const options = { code: 'OUTBOX_CONNECTION_FAILED', retry: 'safe' } as const
    expect(asCommandError(new ConnectionError('no', { ...options, cause: answer('28P01') }))).toMatchObject({ outcome: 'auth' })
    const refused = new ConnectionError('no', { ...options, cause: answer('ECONNREFUSED') })
    expect(asCommandError(refused)).toBe(refused)
    const bug = new TypeError('of ours')
    expect(asCommandError(bug)).toBe(bug)
  })
})
