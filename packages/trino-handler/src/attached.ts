import { type CallOptions, ConfigError, ConnectionError, sleep } from '@common-handlers/core'
import { fromServer } from './errors.ts'
import { statsOf } from './protocol.ts'
import type { QueryInfo } from './query-info.ts'
import type { ExecuteResult, SubmittedStatement } from './statements.ts'

/** A statement of somebody else. */
export type AttachedStatement = Omit<SubmittedStatement, 'handle'>

const POLL_MS = 200

/** What is asked of a server about a query whose id is all that is known. */
interface ById {
  info(options: CallOptions | undefined): Promise<QueryInfo>
  wait<T>(options: CallOptions | undefined, work: (signal: AbortSignal) => Promise<T>): Promise<T>
  cancel(): Promise<void>
}

/** Watches a query by its id until it ends. */
export function followById(queryId: string, server: ById): AttachedStatement {
  const follow = (options?: CallOptions): Promise<ExecuteResult> =>
    server.wait(options, async (signal) => {
      for (;;) {
        const { state, updateType, error } = await server.info({ signal })
        if (error !== undefined) throw fromServer(error, queryId)
        if (state === 'finished') return { queryId, updateType, updateCount: undefined, stats: statsOf({ state: 'FINISHED' }) }
        if (state === 'unknown') {
          throw new ConnectionError(`Trino does not know query ${queryId}: it was never followed, or is long over`, {
            code: 'TRINO_QUERY_LOST',
            retry: 'if-idempotent',
            context: { queryId },
          })
        }
        await sleep(POLL_MS, signal)
      }
    })
  return {
    queryId,
    follow,
    pages: () => {
      throw new ConfigError('the rows of a statement are reached by its handle, not by its id alone', {
        code: 'TRINO_HANDLE_NEEDED',
        context: { queryId },
      })
    },
    cancel: () => server.cancel(),
  }
}
