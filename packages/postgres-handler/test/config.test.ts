import { inspect } from 'node:util'
import { configKeys } from '@common-handlers/core'
import { describe, expect, it } from 'vitest'
import { PostgresHandler, type PostgresHandlerOptions, postgresConfigSchema } from '../src/index.ts'

const parse = (options: PostgresHandlerOptions) => postgresConfigSchema.parse(options)
const problem = (options: object): string => {
  try {
    void new PostgresHandler(options)
  } catch (error) {
    expect(error).toMatchObject({ name: 'ConfigError', code: 'POSTGRES_CONFIG_INVALID' })
    return (error as Error).message
  }
  throw new Error('it was expected to be refused')
}

describe('options', () => {
  it('have defaults for all but the user', () => {
    expect(parse({ user: 'app' })).toMatchObject({
      host: 'localhost',
      port: 5432,
      database: 'app',
      user: 'app',
      sslMode: 'disable',
      connectTimeoutMs: 10_000,
      statementTimeoutMs: 0,
      lockTimeoutMs: 0,
      idleInTransactionTimeoutMs: 0,
      poolerMode: 'session',
      retry: { attempts: 5, budgetMs: 10_000 },
      pool: { min: 0, max: 10, idleTimeoutMs: 10_000, maxLifetimeMs: 1_800_000, waitTimeoutMs: 10_000, drainTimeoutMs: 0 },
    })
    expect(problem({})).toContain('user: missing')
  })

  it('take a URL apart, as libpq writes it', () => {
    const config = parse({
      url: 'postgresql://us%40er:p%2Fw%3Aord@db.example:6543/a%20b?sslmode=verify-full&sslrootcert=/ca.pem&application_name=x&connect_timeout=7',
    })
    expect(config).toMatchObject({
      host: 'db.example',
      port: 6543,
      database: 'a b',
      user: 'us@er',
      sslMode: 'verify-full',
      sslRootCert: '/ca.pem',
      applicationName: 'x',
      connectTimeoutMs: 7_000,
    })
    expect(config.password?.expose()).toBe('p/w:ord')
    expect(parse({ url: 'postgres://u@[::1]:1/d' }).host).toBe('::1')
    expect(parse({ url: 'postgres://u@%2Fvar%2Frun/d' }).host).toBe('/var/run')
  })

  it.each([
    [{ url: 'postgres://u:p@h/d', host: 'other' }, 'host: is given twice'],
    [{ url: 'mysql://u@h/d' }, 'does not begin with postgres://'],
    [{ url: 'not a url' }, 'is not a URL'],
    [{ url: 'postgres://u@h/d?sslmode=prefer' }, 'sslmode=prefer is not one of disable, require'],
    [{ url: 'postgres://u@h/d?options=-c' }, 'cannot use its parameter "options"'],
    [{ user: 'u', sslMode: 'require', sslRootCert: '/ca.pem' }, 'use verify-ca or verify-full'],
    [{ user: 'u', sslMode: 'require', sslServerName: 'db' }, 'use verify-full'],
    [{ user: 'u', sslMode: 'require', sslCert: '/c.pem' }, 'sslKey: missing'],
    [{ user: 'u', sslCert: '/c.pem', sslKey: '/k.pem' }, 'not used with sslMode "disable"'],
    [{ user: 'u', pool: { min: 3, max: 2 } }, 'min is greater than max'],
    [{ user: 'u', passwort: 'x' }, 'passwort'],
  ])('refuse %o', (options, message) => {
    expect(problem(options)).toContain(message)
  })

  it('come from the variables of libpq where they are asked for', async () => {
    const variables = {
      PGHOST: 'db',
      PGPORT: '6432',
      PGUSER: 'app',
      PGDATABASE: '',
      PGPASSWORD: 'p-from-env',
      PGSSLMODE: 'require',
    }
    const target = async (options: PostgresHandlerOptions): Promise<string> => {
      await using pg = PostgresHandler.fromEnvironment({ retry: { attempts: 1 }, ...options }, variables)
      return (await pg.check({ timeoutMs: 200 })).target
    }
    expect(await target({ host: '127.0.0.1', port: 1 })).toBe('postgres://app@127.0.0.1:1/app')
    expect(await target({ url: 'postgres://other@127.0.0.1:1/main' })).toBe('postgres://other@127.0.0.1:1/main')
    const credentials = (): Promise<never> => Promise.reject(new Error('none'))
    expect(await target({ host: '127.0.0.1', database: 'main', credentials })).toBe('postgres://127.0.0.1:6432/main')
    expect(() => PostgresHandler.fromEnvironment({}, { ...variables, PGSSLMODE: 'prefer' })).toThrow(/sslMode/)
    expect(() => PostgresHandler.fromEnvironment({}, { ...variables, PGPORT: 'x' })).toThrow(/port/)
  })

  it('show no password, neither in errors nor when the handler is inspected', () => {
    expect(problem({ url: 'postgres://u:hunter2hunter2@h/d?x=1', user: 'u' })).not.toContain('hunter2')
    const handler = new PostgresHandler({ user: 'u', password: 'hunter3hunter3' })
    expect(inspect(handler, { depth: 9, showHidden: true })).not.toContain('hunter3')
    expect(JSON.stringify(handler)).not.toContain('hunter3')
  })

  it('describe every key and mark the secrets', () => {
    const keys = configKeys(postgresConfigSchema)
    expect(keys.filter((key) => key.secret).map((key) => key.path.join('.'))).toEqual(['url', 'password', 'sslKey'])
    expect(keys.filter((key) => key.description === undefined)).toEqual([])
    expect(keys.map((key) => key.path.join('.'))).toContain('pool.idleTimeoutMs')
  })
})
