import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { freePorts, launch, prometheusBinaries, runOnPostgres } from '@common-handlers/testkit'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type ComposeStack, composeStack, eventually } from './compose-stack.ts'

const execute = promisify(execFile)
const compose = new URL('../../docker/compose/', import.meta.url).pathname

interface Series {
  readonly metric: Readonly<Record<string, string>>
  readonly value: readonly [number, string]
}

describe('docker/compose.yaml, its services as processes', () => {
  let folder: string
  let stack: ComposeStack

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'compose-'))
    stack = await composeStack(folder)
  })

  afterAll(async () => {
    await stack?.[Symbol.asyncDispose]()
    await rm(folder, { recursive: true, force: true })
  })

  it('ends with the report: the same rows on both sides, day by day', async () => {
    const { code, output } = await stack.result('report')
    expect(output).toContain('the same on both sides, 246750 rows on 15 days')
    expect(output.match(/^\s*\d{4}-\d\d-\d\d \|\s+(\d+) \|\s+\1 \|/gm)).toHaveLength(15)
    expect(code).toBe(0)
  }, 600_000)

  it('logs the extractor in as a user that OpenBao has made', async () => {
    const url = new URL(await readFile(stack.here('/run/database/url'), 'utf8'))
    expect(url.username).toMatch(/^v-approle-extracto/)
    await runOnPostgres(
      { ...stack.postgres, database: 'app', user: url.username, password: url.password },
      'select from app.audit_log limit 1',
    )
    await expect(
      runOnPostgres(
        { ...stack.postgres, database: 'app', user: url.username, password: url.password },
        'delete from app.audit_log',
      ),
    ).rejects.toThrow('permission denied')
  })

  it('does nothing when it runs again', async () => {
    expect(await stack.result('openbao-seed')).toMatchObject({ code: 0 })
    const extractor = await stack.result('extractor')
    expect([extractor.code, extractor.output]).toEqual([0, expect.stringContaining('"rows":0')])
    const ingestor = await stack.result('ingestor')
    expect([ingestor.code, ingestor.output]).toEqual([0, expect.stringContaining('"runs":[]')])
  }, 300_000)

  it('fails where the two sides differ, until they do not', async () => {
    await runOnPostgres({ ...stack.postgres, database: 'app' }, await activity())
    const differs = await stack.result('report')
    expect(differs.output).toMatch(/NOT the same: 1 of 1[56] days differ/)
    expect(differs.code).not.toBe(0)
    for (const name of ['extractor', 'ingestor']) expect(await stack.result(name)).toMatchObject({ code: 0 })
    expect(await stack.result('report')).toMatchObject({ code: 0 })
  }, 300_000)

  it('is watched: Prometheus reads both programs, and every panel of the dashboard has something to show', async () => {
    const { prometheus, promtool } = await prometheusBinaries()
    const config = join(folder, 'prometheus/prometheus.yml')
    await execute(promtool, ['check', 'config', config])
    for (const name of ['extractor-loop', 'ingestor-loop']) await stack.start(name)
    await runOnPostgres({ ...stack.postgres, database: 'app' }, await activity())
    const [port = 0] = await freePorts(1)
    await using _prometheus = await launch({
      name: 'prometheus',
      folder: await mkdtemp(join(folder, 'prometheus-')),
      command: prometheus,
      args: [`--config.file=${config}`, `--web.listen-address=127.0.0.1:${port}`, '--storage.tsdb.path=.'],
      stopSignal: 'SIGTERM',
      startTimeoutMs: 30_000,
      ready: async (signal) => {
        const response = await fetch(`http://127.0.0.1:${port}/-/ready`, { signal })
        if (!response.ok) throw new Error(`/-/ready answered ${response.status}`)
      },
    })
    const query = async (expression: string): Promise<readonly Series[]> => {
      const response = await fetch(
        `http://127.0.0.1:${port}/api/v1/query?${new URLSearchParams({ query: expression }).toString()}`,
      )
      const answer = (await response.json()) as {
        readonly error?: string
        readonly data?: { readonly result: readonly Series[] }
      }
      if (answer.data === undefined) throw new Error(`${expression}: ${answer.error}`)
      return answer.data.result
    }
    const dashboard = JSON.parse(await readFile(join(compose, 'grafana/dashboards/common-handlers.json'), 'utf8')) as {
      readonly panels: readonly { readonly title: string; readonly targets: readonly { readonly expr: string }[] }[]
    }
    expect(dashboard.panels.length).toBeGreaterThan(5)
    for (const { title, targets } of dashboard.panels) {
      for (const { expr } of targets) {
        const apps = await eventually(`${title}: ${expr}`, async () => {
          const found = new Set((await query(expr)).filter(({ value }) => value[1] !== 'NaN').map(({ metric }) => metric['app']))
          return found.size === 2 ? [...found].toSorted() : undefined
        })
        expect(apps, title).toEqual(['audit-log-extractor', 'iceberg-ingestor'])
      }
    }
    const rows = await eventually('rows extracted', async () =>
      (await query('common_handlers_rows_total{app="audit-log-extractor"} > 0')).at(0),
    )
    expect(Number(rows.value[1])).toBeGreaterThanOrEqual(500)
    // The HEALTHCHECK of the images.
    for (const [loop, app] of [
      ['extractor-loop', 'extractor'],
      ['ingestor-loop', 'ingestor'],
    ] as const) {
      const main = new URL(`../../apps/${app}/src/main.ts`, import.meta.url).pathname
      const health = await stack.exec(loop, [process.execPath, '--conditions=@common-handlers/source', main, 'health'])
      expect([health.code, health.output]).toEqual([0, expect.stringContaining('"outcome":"ok"')])
    }
  }, 600_000)
})

/** The statement that the service `activity` repeats. */
async function activity(): Promise<string> {
  const [, sql = ''] = /--command="([^"]+)"/.exec(await readFile(join(compose, 'postgres/activity.sh'), 'utf8')) ?? []
  expect(sql).toContain('update app.flights')
  return sql
}
