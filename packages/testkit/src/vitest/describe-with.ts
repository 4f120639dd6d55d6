import { describe, inject, it } from 'vitest'
import { readEnvironment } from '../config.ts'
import { ServerUnavailable } from '../errors.ts'
import type { Addresses, ServerKind } from '../servers/addresses.ts'
import { askKeeper } from './keeper-protocol.ts'

/** The addresses of the servers that were asked for. */
export type ServersOf<K extends ServerKind> = { readonly [Kind in K]: Addresses[Kind] }

/**
 * A `describe` whose tests run against real servers, shared by all files of the run:
 * `describeWith(['postgres', 's3'], 'title', ({ postgres, s3 }) => { it(…) })`.
 * The servers start at the first request. If one cannot be had here, the suite is skipped and the reporter says so at
 * the end; in continuous integration (`CI`) it fails. A server that is there and does not start is a failure anywhere.
 * A body that starts a further server of its own is taken at its word in the same way when it throws ServerUnavailable.
 */
export function describeWith<const K extends ServerKind>(
  kinds: readonly K[],
  title: string,
  body: (servers: ServersOf<K>) => void | Promise<void>,
): void {
  // oxlint-disable-next-line vitest/valid-title -- it is the caller's
  describe(title, async () => {
    const missing = await addressesOf(kinds).then(async (outcome) => {
      if (outcome instanceof Error) return outcome
      try {
        await body(outcome)
        return undefined
      } catch (error) {
        if (error instanceof ServerUnavailable) return error
        throw error
      }
    })
    if (missing === undefined) return
    // oxlint-disable-next-line vitest/expect-expect -- it says why the others are not there
    it('has its servers', ({ task, skip }) => {
      if (readEnvironment().ci || !(missing instanceof ServerUnavailable)) throw missing
      task.meta.missingServer = missing.message
      skip(missing.message)
    })
  })
}

async function addressesOf<K extends ServerKind>(kinds: readonly K[]): Promise<ServersOf<K> | Error> {
  const keeper = inject('testkitKeeper')
  if (keeper === undefined) return new Error('the vitest configuration does not name the globalSetup of testkit')
  try {
    const pairs = await Promise.all(kinds.map(async (kind) => [kind, await askKeeper(keeper, kind)] as const))
    for (const [kind, answer] of pairs) {
      if (answer.state === 'unavailable') return new ServerUnavailable(kind, answer.reason)
      if (answer.state === 'failed') return new Error(answer.message)
    }
    const addresses = pairs.map(([kind, answer]) => [kind, answer.state === 'ready' ? answer.address : undefined])
    return Object.fromEntries(addresses) as ServersOf<K>
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error))
  }
}
