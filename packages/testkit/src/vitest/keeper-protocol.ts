import { addressVariables } from '../config.ts'
import type { Addresses, ServerKind } from '../servers/addresses.ts'

declare module 'vitest' {
  interface ProvidedContext {
    testkitKeeper: KeeperAddress
  }
  interface TaskMeta {
    /** Why the suite around this test did not run. */
    missingServer?: string
  }
}

/** Where the keeper of a test run listens, and the word it wants to hear. */
export interface KeeperAddress {
  readonly url: string
  readonly token: string
}

/** What the keeper says about one kind of server. */
export type KeeperAnswer =
  | { readonly state: 'ready'; readonly address: Addresses[ServerKind] }
  | { readonly state: 'starting' }
  | { readonly state: 'unavailable'; readonly reason: string }
  | { readonly state: 'failed'; readonly message: string }

export function isServerKind(text: string | undefined): text is ServerKind {
  return text !== undefined && Object.hasOwn(addressVariables, text)
}

/** Asks until the server is there or cannot be. */
export async function askKeeper(
  keeper: KeeperAddress,
  kind: ServerKind,
): Promise<Exclude<KeeperAnswer, { readonly state: 'starting' }>> {
  for (;;) {
    const response = await fetch(`${keeper.url}/${kind}`, { headers: { authorization: `Bearer ${keeper.token}` } })
    if (!response.ok) throw new Error(`the keeper of the servers answered ${response.status}`)
    const answer = (await response.json()) as KeeperAnswer
    if (answer.state !== 'starting') return answer
  }
}
