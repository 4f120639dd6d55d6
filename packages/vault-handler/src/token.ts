import type { CallOptions } from '@common-handlers/core'
import type { VaultApi } from './api.ts'
import type { TokenSource } from './authentication.ts'
import type { ApiRequest } from './client.ts'
import { noCredentials } from './errors.ts'
import type { TokenLife } from './login-methods.ts'

/** What the server says about a token. The token itself is not among it. */
export interface TokenInfo {
  /** Names the token without being one. */
  readonly accessor: string
  readonly displayName: string
  /** Its own and those of its identity. */
  readonly policies: readonly string[]
  /** Time left, in milliseconds; Infinity for a token without end. */
  readonly ttlMs: number
  readonly renewable: boolean
  readonly type: string
  /** Its end does not depend on that of another token. */
  readonly orphan: boolean
  /** Infinity for one that can be used without limit. */
  readonly usesLeft: number
  /** Of the login: the role, the user. */
  readonly metadata: Readonly<Record<string, string>>
}

export interface RenewTokenOptions extends CallOptions {
  /** The time to live that is asked for, from now, in milliseconds; the server may give less. Default: that of the token. */
  readonly incrementMs?: number | undefined
}

interface LookUpAnswer {
  readonly accessor: string
  readonly display_name: string
  readonly policies: readonly string[]
  readonly identity_policies?: readonly string[]
  /** Seconds; 0 for a token without end. */
  readonly ttl: number
  readonly renewable?: boolean
  readonly type: string
  readonly orphan: boolean
  readonly num_uses: number
  readonly meta: Readonly<Record<string, string>> | null
}

export const lookUpSelf: ApiRequest = { method: 'GET', path: 'auth/token/lookup-self', idempotent: true }

/** The token of the handler. It is renewed in the background; these are for doing so by hand. */
export class VaultToken {
  readonly #api: VaultApi
  readonly #tokens: TokenSource

  constructor(api: VaultApi, tokens: TokenSource) {
    this.#api = api
    this.#tokens = tokens
  }

  /** @throws AuthError `VAULT_TOKEN_INVALID`, `VAULT_NO_CREDENTIALS` */
  lookup(options?: CallOptions): Promise<TokenInfo> {
    return this.#api.call('look up the token', options, async (signal) => {
      return readTokenInfo(await this.#api.authorised(lookUpSelf, signal))
    })
  }

  /**
   * Renews the token and gives the time it lives from now, in milliseconds.
   * @throws RemoteError `VAULT_REQUEST_REFUSED` for one that cannot be renewed
   */
  renew({ incrementMs, ...options }: RenewTokenOptions = {}): Promise<number> {
    return this.#api.call('renew the token', options, async (signal) => {
      const body = incrementMs === undefined ? {} : { increment: `${Math.ceil(incrementMs / 1000)}s` }
      const answer = await this.#api.authorised({ method: 'POST', path: 'auth/token/renew-self', body, idempotent: true }, signal)
      const { auth } = answer as { readonly auth: TokenLife }
      this.#tokens.renewed(auth)
      return auth.lease_duration > 0 ? auth.lease_duration * 1000 : Infinity
    })
  }

  /** Revokes the token and all leases made by it. The next call logs in again; where the token was given, it fails. */
  revoke(options?: CallOptions): Promise<void> {
    return this.#api.call('revoke the token', options, async (signal) => {
      const facts = { method: 'POST', path: 'auth/token/revoke-self' }
      const token = await this.#tokens.get(signal)
      if (token === undefined) throw noCredentials(facts)
      await this.#api.send({ ...facts, token, idempotent: true }, signal)
      this.#tokens.invalidate(token)
    })
  }
}

export function readTokenInfo(answer: unknown): TokenInfo {
  const { data } = answer as { readonly data: LookUpAnswer }
  return {
    accessor: data.accessor,
    displayName: data.display_name,
    policies: [...data.policies, ...(data.identity_policies ?? [])],
    ttlMs: data.ttl === 0 ? Infinity : data.ttl * 1000,
    renewable: data.renewable ?? false,
    type: data.type,
    orphan: data.orphan,
    usesLeft: data.num_uses === 0 ? Infinity : data.num_uses,
    metadata: data.meta ?? {},
  }
}
