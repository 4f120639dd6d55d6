import { inspect } from 'node:util'
import { describeWith } from '@common-handlers/testkit'
import { BasicAuth, type ConnectionOptions, Trino } from 'trino-client'
import { afterAll, describe, expect, it } from 'vitest'
import { fromTrinoClient, fromTrinoClientOptions, TrinoHandler } from '../src/index.ts'
import { FaultServer, status } from './fault-server.ts'
import { nested, vectors } from './vectors.ts'

describeWith(['trino'], 'a configured trino-client', ({ trino: { url, user } }) => {
  const options: ConnectionOptions = { server: url, catalog: 'tpch', schema: 'tiny', auth: new BasicAuth(user) }

  it('has options that are taken over by name', async () => {
    const session = { query_max_run_time: '7m' }
    await using trino = new TrinoHandler(fromTrinoClientOptions({ ...options, session, source: 'moved', extraHeaders: {} }))
    expect((await trino.query('SELECT count(*) AS n FROM nation')).rows).toEqual([{ n: 25n }])
    const { rows } = await trino.query<{ Value: string }>("SHOW SESSION LIKE 'query_max_run_time'")
    expect(rows[0]?.Value).toBe('7m')
    const full = fromTrinoClientOptions({
      server: 'https://trino.example.com',
      auth: new BasicAuth('me', 'a-long-password'),
      ssl: { ca: Buffer.from('-----BEGIN CERTIFICATE-----'), rejectUnauthorized: false },
      extraCredential: { a: 'a-long-credential' },
    })
    expect(full).toMatchObject({
      url: 'https://trino.example.com',
      user: 'me',
      password: 'a-long-password',
      tls: { caCert: '-----BEGIN CERTIFICATE-----', verify: false },
      extraCredentials: { a: 'a-long-credential' },
    })
    await using made = new TrinoHandler(full)
    expect(made).toBeInstanceOf(TrinoHandler)
    for (const unfit of [
      { server: url },
      { ...options, extraHeaders: { 'X-Odd': '1' } },
      { ...options, auth: { type: 'kerberos' } },
    ]) {
      expect(() => fromTrinoClientOptions(unfit)).toThrow(expect.objectContaining({ code: 'TRINO_CONFIG_INVALID' }))
    }
  })

  describe('as a transport', () => {
    const trino = new TrinoHandler({ transport: fromTrinoClient(Trino.create(options)) })
    afterAll(() => trino.close())

    it('reads what a double holds exactly, and says when it does not', async () => {
      await trino.connect()
      for (const [expression, type, value] of [...vectors, ...nested]) {
        const reading = trino.query(`SELECT ${expression} AS x`)
        // Its JSON.parse has rounded these before anybody could look; keys of maps are text.
        if (
          /9223372036854775807|-9223372036854775808|9007199254740993\b/.test(expression) &&
          /bigint/.test(type) &&
          type !== 'map(bigint, varbinary)'
        ) {
          await expect(reading, expression).rejects.toMatchObject({ code: 'TRINO_VALUE_ROUNDED', outcome: 'data' })
        } else expect((await reading).rows, expression).toEqual([{ x: value }])
      }
    })

    it('binds values, follows and attaches, throws, and keeps sessions', async () => {
      expect((await trino.query('SELECT name FROM nation WHERE nationkey = ?', [6])).rows).toEqual([{ name: 'FRANCE' }])
      let rows = 0
      for await (const page of trino.pages('SELECT * FROM orders')) rows += page.rows.length
      expect(rows).toBe(15_000)
      const submitted = await trino.submit('SELECT 1')
      expect(await submitted.follow()).toMatchObject({ queryId: submitted.queryId })
      expect(await trino.queryState(submitted.queryId)).toBe('finished')
      await expect(trino.query('SELECT nothing FROM nation')).rejects.toMatchObject({ code: 'TRINO_COLUMN_NOT_FOUND' })
      await expect(trino.query('SELEC')).rejects.toMatchObject({ code: 'TRINO_SYNTAX_ERROR' })
      expect((await trino.check()).ok).toBe(true)
    })

    it('cancels what is left', async () => {
      let id = ''
      for await (const page of trino.pages('SELECT * FROM tpch.sf1000.lineitem')) {
        id = page.queryId
        break
      }
      expect(await trino.cancel(id)).toBe('failed')
    })

    it('shows no password in its errors', async () => {
      const password = 'a-planted-password'
      await using server = await FaultServer.playing(status(401, 'no'))
      const client = Trino.create({ server: server.url, auth: new BasicAuth('me', password) })
      await using other = new TrinoHandler({ transport: fromTrinoClient(client), retry: { attempts: 1 } })
      const error: unknown = await other.query('SELECT 1').catch((thrown: unknown) => thrown)
      expect(error).toMatchObject({ code: 'TRINO_UNAUTHENTICATED' })
      expect(inspect(error, { depth: 20, showHidden: true })).not.toContain(password)
    })
  })
})
