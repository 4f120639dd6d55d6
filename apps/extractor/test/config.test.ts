import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type ConfigError, configKeys, loadConfig } from '@common-handlers/core'
import { describe, expect, it } from 'vitest'
import { parseStoreUrl } from '@common-handlers/storage'
import { extractorConfigSchema } from '../src/config.ts'
import { version } from '../src/version.ts'

const root = join(import.meta.dirname, '..')
const minimal = {
  dataset: 'audit_log',
  store: 's3://lake/landing',
  source: { table: 'app.audit_log' },
  postgres: { host: 'localhost', user: 'reader' },
}

async function problems(changes: object): Promise<string> {
  const error = await loadConfig({ schema: extractorConfigSchema, config: { ...minimal, ...changes } }).catch(
    (thrown: unknown) => thrown as ConfigError,
  )
  return error instanceof Error ? error.message : ''
}

describe('the configuration', () => {
  it('needs little', async () => {
    const { value } = await loadConfig({ schema: extractorConfigSchema, config: minimal })
    expect(value).toMatchObject({
      source: { table: 'app.audit_log', mode: 'full', text: [] },
      postgres: { host: 'localhost', port: 5432, database: 'reader' },
      s3: { region: 'us-east-1', concurrency: 2 },
      output: { dialect: 'one-row-a-line', compression: 'gzip', level: 1, fileBytes: 32 * 1024 * 1024 },
    })
    expect(value.vault).toBeUndefined()
  })

  it('takes sizes in words and environment variables', async () => {
    const variables = {
      X_OUTPUT_FILE_BYTES: '64MiB',
      X_SOURCE_LOOKBACK: '5000',
      X_SOURCE_COLUMNS: 'id, actor',
      X_S3_ACCESS_KEY_ID: 'key',
    }
    const { value } = await loadConfig({ schema: extractorConfigSchema, config: minimal, env: { prefix: 'X', variables } })
    expect([value.output.fileBytes, value.source.lookback, value.source.columns, value.s3.accessKeyId]).toEqual([
      67_108_864,
      '5000',
      ['id', 'actor'],
      'key',
    ])
  })

  it.each([
    [{ source: {} }, 'give source.table or source.query, one of them'],
    [{ source: { table: 't', query: 'SELECT 1' } }, 'give source.table or source.query, one of them'],
    [{ source: { table: 't', mode: 'incremental' } }, 'source.watermark: incremental needs the watermark column'],
    [{ source: { table: 't', watermrak: 'id' } }, 'source.watermrak: unknown key (config); did you mean "watermark"?'],
    [{ store: 'http://lake' }, 'store: expected s3://bucket/prefix or file:///folder'],
    [{ dataset: '_next' }, 'dataset: expected letters'],
    [{ s3: { bucket: 'other' } }, 's3.bucket: unknown key'],
    [{ output: { fileBytes: '10 parsecs' } }, 'output.fileBytes: expected a size of at least 1 KiB'],
    [{ output: { compression: 'lz4' } }, 'output.compression'],
    [{ postgres: { host: 'localhost' } }, 'postgres.user: missing'],
  ])('refuses %j and says what is wrong', async (changes, message) => {
    expect(await problems(changes)).toContain(message)
  })

  it('describes every key of its own', () => {
    const bare = configKeys(extractorConfigSchema).filter((key) => key.description === undefined)
    expect(bare.map((key) => key.path.join('.'))).toEqual([])
  })

  it('is shown in the README, key by key', () => {
    const readme = readFileSync(join(root, 'README.md'), 'utf8')
    const own = configKeys(extractorConfigSchema)
      .map((key) => key.path.join('.'))
      .filter((key) => /^(dataset|store|source|output)/.test(key))
    expect(own.filter((key) => !readme.includes(`\`${key}\``))).toEqual([])
  })

  it.each(readdirSync(join(root, 'examples')))('is what examples/%s holds', async (name) => {
    // References are not read here: what matters is that every key is known.
    const resolvers = {
      vault: () => 'x',
      env: (variable: string) => (variable === 'DATABASE_URL' ? 'postgres://u:p@h/d' : 'x'),
      file: () => 'x',
    }
    const { value } = await loadConfig({ schema: extractorConfigSchema, file: join(root, 'examples', name), resolvers })
    expect(parseStoreUrl(value.store)).toBeDefined()
  })

  it('knows the version of the package', () => {
    expect((JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }).version).toBe(version)
  })
})
