import { describe, expect, it } from 'vitest'
import { openReferences } from '../src/index.ts'

const context = { signal: new AbortController().signal, env: { TOKEN: 'token-from-environment' } }

describe('openReferences', () => {
  it('opens the vault at the first vault: reference, once, with its own references resolved, and closes it', async () => {
    const seen: unknown[] = []
    const references = openReferences(
      { vault: { address: 'http://vault', nested: { token: 'env:TOKEN' } } },
      context,
      (config) => {
        seen.push(config)
        return { resolve: async (reference) => `value of ${reference}`, close: async () => void seen.push('closed') }
      },
    )
    expect(seen).toEqual([])
    const read = async (reference: string) => references.resolvers['vault']?.(reference)
    expect(await Promise.all([read('a#b'), read('c#d')])).toEqual(['value of a#b', 'value of c#d'])
    expect(await references.resolvers['env']?.('TOKEN')).toBe('token-from-environment')
    await references[Symbol.asyncDispose]()
    expect(seen).toEqual([{ address: 'http://vault', nested: { token: 'token-from-environment' } }, 'closed'])
  })

  it.each([
    ['no vault', {}, /needs vault\.address/],
    ['a vault that is found in itself', { vault: { token: 'vault:a#b' } }, /cannot stand in the vault itself/],
  ])('says what to do about %s', async (_name, tree, message) => {
    const references = openReferences(tree, context, () => {
      throw new Error('was opened')
    })
    await expect(references.resolvers['vault']?.('a#b')).rejects.toThrow(message)
    await references[Symbol.asyncDispose]()
  })
})
