import { randomBytes } from 'node:crypto'
import {
  createDatabase,
  describeWith,
  freePorts,
  openbaoAdmin,
  type PostgresAddress,
  runOnPostgres,
  runOnTrino,
  s3Request,
} from '@common-handlers/testkit'
import pg from 'pg'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { startHttpGate } from '../../../apps/ingestor/test/http-gate.ts'
import { nthGet } from '../../../apps/ingestor/test/load-requests.ts'
import { buildImages, engineOutput, images, imageTag } from './image-build.ts'
import { type RunningContainer, type RunOptions, secretFiles, startImage } from './image-run.ts'

// What the images do: configured by their environment alone, secrets in the vault and the way to it in a file, the root
// read-only, the user one that no image knows, no capability.

describeWith(
  ['engine', 'postgres', 'openbao', 's3', 'trino'],
  'the images, run',
  ({ engine, postgres: server, openbao, s3, trino }) => {
    const id = randomBytes(4).toString('hex')
    const password = `planted-${randomBytes(12).toString('hex')}`
    let database: PostgresAddress & { readonly drop: () => Promise<void> }
    let secrets: Awaited<ReturnType<typeof secretFiles>>

    /** A dataset of its own: what each app is told in its environment. */
    const settings = (
      dataset: string,
    ): Readonly<Record<'shared' | 'extractor' | 'ingestor', Readonly<Record<string, string>>>> => {
      const shared = {
        DATASET: dataset,
        STORE: `s3://${s3.bucket}/images-${id}`,
        S3_ENDPOINT: s3.endpoint,
        S3_REGION: s3.region,
        S3_ACCESS_KEY_ID: `vault:secret/data/images-${id}#id`,
        S3_SECRET_ACCESS_KEY: `vault:secret/data/images-${id}#key`,
        VAULT_ADDRESS: openbao.address,
        VAULT_TOKEN_FILE: '/run/secrets/token',
      }
      return {
        shared,
        extractor: {
          ...shared,
          SOURCE_TABLE: 'audit_log',
          POSTGRES_HOST: database.host,
          POSTGRES_PORT: String(database.port),
          POSTGRES_DATABASE: database.database,
          POSTGRES_USER: `reader_${id}`,
          POSTGRES_PASSWORD: `vault:secret/data/images-${id}#password`,
        },
        ingestor: {
          ...shared,
          ENGINE: 'trino',
          TARGET_CATALOG: trino.catalog,
          TARGET_SCHEMA: `images_${id}`,
          TARGET_TABLE: dataset,
          TRINO_URL: trino.url,
          TRINO_USER: trino.user,
          TRINO_STAGING_CATALOG: trino.stagingCatalog,
        },
      }
    }
    const start = (
      app: 'extractor' | 'ingestor',
      dataset: string,
      args: readonly string[],
      { env = {}, ...options }: RunOptions = {},
    ): Promise<RunningContainer> => {
      const all = Object.entries({ ...settings(dataset)[app], ...env })
      return startImage(engine, app, args, {
        ...options,
        env: Object.fromEntries(all.map(([key, value]) => [`${app.toUpperCase()}_${key}`, value])),
        with: ['--volume', `${secrets.path}:/run/secrets:ro`, ...(options.with ?? ['--no-healthcheck'])],
      })
    }
    const run = async (...given: Parameters<typeof start>): Promise<Awaited<ReturnType<RunningContainer['ended']>>> => {
      await using container = await start(...given)
      const ended = await container.ended(given[3]?.memory === undefined ? undefined : 240_000)
      expect(ended.code, ended.log).toBe(0)
      return ended
    }
    const count = async (dataset: string): Promise<number> => {
      const { rows } = await runOnTrino(trino, `SELECT count(*) FROM ${trino.catalog}.images_${id}.${dataset}`)
      return Number(rows[0]?.[0])
    }
    /** Keys of the store, and uploads that were begun and not ended, below a prefix. */
    const stored = async (dataset: string, what: 'list-type=2' | 'uploads'): Promise<string[]> => {
      const answer = await s3Request(s3, 'GET', `${s3.bucket}?${what}&prefix=${encodeURIComponent(`images-${id}/${dataset}/`)}`)
      return [...(await answer.text()).matchAll(/<Key>([^<]+)<\/Key>/g)].map(([, key = '']) => key)
    }

    beforeAll(async () => {
      await buildImages(engine)
      database = await createDatabase(server, 'images')
      await runOnPostgres(
        database,
        `CREATE ROLE reader_${id} LOGIN PASSWORD '${password}';
         CREATE TABLE audit_log AS SELECT g AS id, timestamptz '2026-01-01' + g * interval '1 s' AS occurred_at, md5(g::text) AS note
           FROM generate_series(1, 5000) AS g;
         ALTER TABLE audit_log ADD PRIMARY KEY (id);
         GRANT SELECT ON audit_log TO reader_${id}`,
      )
      const bao = openbaoAdmin(openbao)
      await bao.putSecret(`images-${id}`, { password, id: s3.accessKeyId, key: s3.secretAccessKey })
      await bao.writePolicy(`images-${id}`, `path "secret/data/images-${id}" { capabilities = ["read"] }`)
      secrets = await secretFiles({ token: await bao.createToken({ policies: [`images-${id}`], ttl: '1h' }) })
    }, 900_000)

    afterAll(async () => {
      await secrets?.[Symbol.asyncDispose]()
      await runOnTrino(trino, `DROP SCHEMA IF EXISTS ${trino.catalog}.images_${id} CASCADE`)
      await database?.drop()
      await runOnPostgres(server, `DROP ROLE IF EXISTS reader_${id}`)
    })

    it('check finds everything, run moves every row from PostgreSQL into Trino, and again nothing', async () => {
      expect((await run('extractor', 'audit_log', ['check'])).result).toMatchObject([{ ok: true }, { ok: true }, { ok: true }])
      expect((await run('extractor', 'audit_log', ['run'])).result).toMatchObject({ rows: 5000 })
      expect((await run('ingestor', 'audit_log', ['check'])).result).toMatchObject({ ok: true })
      expect((await run('ingestor', 'audit_log', ['run'])).result).toMatchObject({ runs: [{ rows: 5000, loaded: true }] })
      expect((await run('ingestor', 'audit_log', ['run'])).result).toMatchObject({ runs: [] })
      expect(await count('audit_log')).toBe(5000)
    })

    it('holds no secret where a container is looked at', async () => {
      await using container = await start('extractor', 'audit_log', ['plan'])
      const { code, log, result } = await container.ended()
      expect(code, log).toBe(0)
      const seen = [await engineOutput(engine, 'inspect', container.name), log, JSON.stringify(result)].join('\n')
      expect(seen).toContain(`vault:secret/data/images-${id}#password`)
      for (const secret of [password, s3.secretAccessKey, openbao.rootToken]) expect(seen).not.toContain(secret)
    })

    it('SIGTERM in the middle of an extraction ends it within 10 s with 143, and nothing of it is left', async () => {
      // Row 3000 waits for a lock when the COPY comes to it, with several files on the store.
      await runOnPostgres(
        database,
        `CREATE FUNCTION gate(id bigint, note text) RETURNS text STABLE LANGUAGE plpgsql AS
           'BEGIN IF id = 3000 THEN PERFORM pg_advisory_xact_lock_shared(7); END IF; RETURN note; END';
         CREATE VIEW gated AS SELECT id, occurred_at, gate(id, note) AS note FROM audit_log;
         GRANT SELECT ON gated TO reader_${id};
         ALTER ROLE reader_${id} SET enable_sort = off;
         ALTER ROLE reader_${id} SET enable_seqscan = off`,
      )
      const holder = new pg.Client({ connectionString: database.url })
      holder.on('error', () => undefined)
      await holder.connect()
      try {
        await holder.query('SELECT pg_advisory_lock(7)')
        await using container = await start('extractor', 'gated', ['run'], {
          env: { SOURCE_TABLE: 'gated', SOURCE_KEY: '["id"]', OUTPUT_FILE_BYTES: '16384' },
        })
        const waiting = `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`
        const inTheMiddle = async (): Promise<boolean> =>
          (await holder.query(waiting)).rowCount !== 0 && (await stored('gated', 'list-type=2')).length > 1
        await expect.poll(inTheMiddle, { timeout: 60_000, interval: 50 }).toBe(true)
        await container.stop()
        const { code, log } = await container.ended()
        expect([code, log]).toEqual([143, expect.stringContaining('stopped by SIGTERM')])
        expect(await stored('gated', 'list-type=2')).toEqual([])
        expect(await stored('gated', 'uploads')).toEqual([])
      } finally {
        await holder.end()
      }
      expect(
        (await run('extractor', 'gated', ['run'], { env: { SOURCE_TABLE: 'gated', SOURCE_KEY: '["id"]' } })).result,
      ).toMatchObject({
        rows: 5000,
      })
    })

    it('SIGTERM in the middle of a load ends it within 10 s with 143, and there is no snapshot; the next run loads each row once', async () => {
      await run('extractor', 'stopped', ['run'])
      await using gate = await startHttpGate(trino.url, nthGet(1))
      await using container = await start('ingestor', 'stopped', ['run'], { env: { TRINO_URL: gate.endpoint } })
      await Promise.race([gate.held, container.ended().then(({ log }) => expect.unreachable(log))])
      await container.stop()
      const { code, log } = await container.ended()
      expect([code, log]).toEqual([143, expect.stringContaining('stopped by SIGTERM')])
      await expect(count('stopped')).rejects.toThrow('TABLE_NOT_FOUND')
      await run('ingestor', 'stopped', ['run', '--wait'])
      expect(await count('stopped')).toBe(5000)
    })

    it.each(images)('SIGTERM in the first moment ends the $app with 143', async ({ app }) => {
      await using container = await start(app as 'extractor', 'early', ['run'], { with: ['--init', '--no-healthcheck'] })
      await container.stop()
      expect((await container.ended()).code).toBe(143)
      expect(await stored('early', 'list-type=2')).toEqual([])
    })

    it.each(images)('the health check of the $app asks the program that listens', async ({ app }) => {
      const inspected = await engineOutput(engine, 'image', 'inspect', '--format', '{{json .Config.Healthcheck}}', imageTag(app))
      const { Test: test } = JSON.parse(inspected) as { readonly Test: readonly string[] }
      expect(test[0]).toBe('CMD')
      const [port = 0] = await freePorts(1)
      const broken = app === 'extractor' ? { SOURCE_TABLE: `late_${id}` } : { STORE: `s3://late-${id}/runs` }
      await using container = await start(app as 'extractor', `health_${app}`, ['run'], {
        env: { ...broken, EVERY: '1s', LISTEN: `127.0.0.1:${port}` },
      })
      const health = async (): Promise<unknown> => {
        const { code, stdout } = await container.exec(...test.slice(1))
        const lastRun = /"outcome":"(\w+)"/.exec(stdout)?.[1]
        return lastRun === undefined ? undefined : { code, lastRun }
      }
      const eventually = async (expected: unknown): Promise<void> => {
        await expect.poll(health, { timeout: 60_000, interval: 500 }).toEqual(expected)
      }
      await eventually({ code: 1, lastRun: 'failed' })
      if (app === 'extractor')
        await runOnPostgres(
          database,
          `CREATE VIEW late_${id} AS SELECT * FROM audit_log WHERE id < 10; GRANT SELECT ON late_${id} TO reader_${id}`,
        )
      else expect((await s3Request(s3, 'PUT', `late-${id}`)).status).toBe(200)
      await eventually({ code: 0, lastRun: 'ok' })
    })

    it('moves a million rows, more bytes than it may have, in 256 MB', async () => {
      const rows = 1_000_000
      await runOnPostgres(
        database,
        `CREATE VIEW many AS SELECT g AS id, timestamptz '2026-01-01' + g * interval '1 s' AS occurred_at, 'user-' || g % 997 AS actor,
           jsonb_build_object('delay', g % 60, 'distance', g % 4000, 'note', repeat(md5(g::text), 8)) AS payload
           FROM generate_series(1, ${rows}) AS g;
         GRANT SELECT ON many TO reader_${id}`,
      )
      const options = { memory: '256m' }
      // The limit is real: what needs more is killed.
      await using greedy = await startImage(
        engine,
        'extractor',
        ['-e', 'const all = []; for (;;) all.push(Buffer.alloc(1e7, 1))'],
        {
          ...options,
          with: ['--no-healthcheck', '--entrypoint', 'node'],
        },
      )
      expect((await greedy.ended()).code).toBe(137)
      const extracted = await run('extractor', 'many', ['run'], {
        ...options,
        env: { SOURCE_TABLE: 'many', SOURCE_KEY: '["id"]' },
      })
      expect(extracted.result).toMatchObject({ rows })
      expect(extracted.result.csvBytes).toBeGreaterThan(256 * 1024 * 1024)
      await run('ingestor', 'many', ['run', '--verify'], options)
      expect(await count('many')).toBe(rows)
    }, 600_000)
  },
)
