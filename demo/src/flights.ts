import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import type { PostgresHandler } from '@common-handlers/postgres-handler'
import { type PostgresAddress, runOnPostgres } from '@common-handlers/testkit'

/**
 * US flights of 2001 with delay, distance and time of departure (Bureau of Transportation Statistics, from the npm
 * package vega-datasets). The file holds times of day and no dates; the demo replays it over two weeks, with fewer
 * flights at the weekend, so that there is something to count by day.
 */
const FLIGHTS_FILE = dataFile('flights-200k.json')

/** The package exports its code only; its data lies beside it. */
export function dataFile(name: string): string {
  return join(dirname(createRequire(import.meta.url).resolve('vega-datasets')), '../data', name)
}

const APPLICATION_SQL = new URL('../sql/application.sql', import.meta.url)

/** Creates the application with its audit trigger; false when it is there already. */
export async function createApplication(
  address: Omit<PostgresAddress, 'kind' | 'url'>,
  postgres: PostgresHandler,
  extractorPassword: string,
): Promise<boolean> {
  const [found] = await postgres.getRecords<{ there: boolean }>(`select to_regclass('app.audit_log') is not null as there`)
  if (found?.there === true) {
    await setExtractorPassword(postgres, extractorPassword)
    return false
  }
  await runOnPostgres(address, await readFile(APPLICATION_SQL, 'utf8'))
  await setExtractorPassword(postgres, extractorPassword)
  return true
}

/** Bound, not written into the statement; `format` quotes it in the server, which takes no parameter in ALTER ROLE. */
async function setExtractorPassword(postgres: PostgresHandler, password: string): Promise<void> {
  await postgres.transaction(async (transaction) => {
    await transaction.getRecords(`select set_config('app.new_password', $1, true)`, [password])
    await transaction.execute(
      `do $$ begin execute format('alter role extractor password %L', current_setting('app.new_password')); end $$`,
    )
  })
}

/** The day of the replay for each flight in turn: four of a working day, five of a Friday, two or three of a weekend day. */
const REPLAY_DAYS = [4, 4, 4, 4, 5, 2, 3, 4, 4, 4, 4, 5, 2, 3].flatMap((flights, day) =>
  Array.from({ length: flights }, () => day),
)

/** Replays the flights of the file; returns how many. */
export async function loadFlights(postgres: PostgresHandler): Promise<number> {
  const json = await readFile(FLIGHTS_FILE, 'utf8')
  return postgres.transaction(async (transaction) => {
    await transaction.execute(`select set_config('app.replay', 'on', true), set_config('app.actor', 'replay', true)`)
    const { rowCount } = await transaction.execute(
      `insert into app.flights
       select number, (date '2026-10-05' + ($2::integer[])[1 + number % $3] + make_interval(secs => round(time * 3600)))::timestamptz, delay, distance
       from rows from (jsonb_to_recordset($1::jsonb) as (delay integer, distance integer, time double precision))
         with ordinality as flight (delay, distance, time, number)`,
      [json, `{${REPLAY_DAYS.join(',')}}`, REPLAY_DAYS.length],
    )
    return rowCount ?? 0
  })
}

/** What happens on an ordinary day: some delays are corrected, some flights turn out never to have left. */
export async function changeFlights(postgres: PostgresHandler): Promise<{ updated: number; deleted: number }> {
  return postgres.transaction(async (transaction) => {
    await transaction.execute(`select set_config('app.actor', 'operations', true)`)
    const updated = await transaction.execute(`update app.flights set delay_minutes = delay_minutes + 5 where id % 40 = 0`)
    const deleted = await transaction.execute(`delete from app.flights where id % 160 = 1`)
    return { updated: updated.rowCount ?? 0, deleted: deleted.rowCount ?? 0 }
  })
}

/** One count a day, as text, in UTC. */
export type DayCounts = ReadonlyMap<string, number>

export async function countByDay(postgres: PostgresHandler): Promise<DayCounts> {
  const rows = await postgres.getRecords<{ day: string; rows: bigint }>(
    `select ((occurred_at at time zone 'UTC')::date)::text as day, count(*) as rows from app.audit_log group by 1 order by 1`,
  )
  return new Map(rows.map(({ day, rows: count }) => [day, Number(count)]))
}
