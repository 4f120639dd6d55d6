import { formatTable } from '@common-handlers/cli'
import { type CheckAttempt, type CheckResult, type Logger, runCheck } from '@common-handlers/core'
import { listRuns, readNewestManifest } from '@common-handlers/dataset'
import { PostgresHandler } from '@common-handlers/postgres-handler'
import { VaultHandler } from '@common-handlers/vault-handler'
import type { ExtractorConfig } from './config.ts'
import { describeSource } from './source.ts'
import { copySelect } from './source-sql.ts'
import type { RunStore } from './store.ts'

/** Tries every connection and every right that a run needs. It reports and does not throw. */
export async function checkAll(
  config: ExtractorConfig,
  store: RunStore,
  { logger, signal }: { readonly logger: Logger; readonly signal: AbortSignal },
): Promise<readonly CheckResult[]> {
  const results: CheckResult[] = []
  if (config.vault !== undefined) {
    await using vault = new VaultHandler({ ...config.vault, logger })
    results.push(await vault.check({ signal }))
  }
  {
    await using postgres = new PostgresHandler({ ...config.postgres, logger })
    results.push(await checkSource(postgres, config, signal))
  }
  results.push(await checkStore(store, config.dataset, signal))
  return results
}

async function checkSource(postgres: PostgresHandler, { source }: ExtractorConfig, signal: AbortSignal): Promise<CheckResult> {
  const tables = source.table === undefined ? [] : [source.table]
  const connected = await postgres.check({ tables, signal })
  if (!connected.ok) return connected
  const read: CheckAttempt = {
    name: `read the columns of ${source.table ?? 'the query'}`,
    run: () =>
      postgres.readSnapshot(
        async (reader) => {
          const described = await describeSource(reader, source)
          const where = source.where === undefined ? undefined : `(${source.where}\n)`
          await reader.getRows(`SELECT FROM (${copySelect(described, where)}\nLIMIT 0) AS nothing`)
          const key = described.key.length === 0 ? 'no key' : `key (${described.key.join(', ')})`
          return `${described.columns.length} columns, ${key}`
        },
        { signal },
      ),
  }
  return joined(connected, await runCheck(connected.target, [read], signal))
}

async function checkStore({ objects, check }: RunStore, dataset: string, signal: AbortSignal): Promise<CheckResult> {
  const reached = await check({ signal })
  if (!reached.ok) return reached
  const look: CheckAttempt = {
    name: `look for runs of ${dataset}`,
    run: async () => {
      const runs = await listRuns(objects, dataset, { signal })
      const newest = await readNewestManifest(objects, dataset, { signal })
      const committed = runs.filter((run) => run.committed).length
      return newest === undefined ? 'no run yet' : `${committed} ${committed === 1 ? 'run' : 'runs'}, the newest ${newest.runId}`
    },
  }
  return joined(reached, await runCheck(reached.target, [look], signal))
}

function joined(first: CheckResult, second: CheckResult): CheckResult {
  return {
    target: first.target,
    ok: first.ok && second.ok,
    durationMs: first.durationMs + second.durationMs,
    steps: [...first.steps, ...second.steps],
  }
}

/** For a person: one line a step. */
export function describeChecks(results: readonly CheckResult[]): string {
  return results
    .map(({ target, steps }) => {
      const lines = steps.map(({ name, ok, durationMs, detail, error }) => [
        `  ${ok ? 'ok' : 'FAILED'}`,
        `${Math.round(durationMs)} ms`,
        name,
        error === undefined ? (detail ?? '') : `${error.message} (${error.code})`,
      ])
      return `${target}\n${formatTable(lines)}`
    })
    .join('\n')
}
