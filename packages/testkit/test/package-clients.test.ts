import { describe, expect, it } from 'vitest'
import { findJava } from '../src/provision/java.ts'
import { ProvisionError, runClient } from '../src/provision/package-clients.ts'

describe('runClient', () => {
  it('returns what the program printed', async () => {
    expect(await runClient(process.execPath, ['-p', '6 * 7'])).toBe('42\n')
  })

  it('names a program that is not there', async () => {
    const failure = runClient('no-such-program', [])
    await expect(failure).rejects.toBeInstanceOf(ProvisionError)
    await expect(failure).rejects.toThrow('"no-such-program" is not on this machine')
  })

  it('quotes the end of the output of one that fails', async () => {
    const program = 'for (let i = 0; i < 100; i++) console.error("line " + i); process.exitCode = 3'
    await expect(runClient(process.execPath, ['-e', program])).rejects.toThrow(/ended with 3:\nline 85\n[^]*line 99$/)
  })
})

describe('findJava', () => {
  it('finds none of the far future', async () => {
    expect(await findJava(999)).toBeUndefined()
  })
})
