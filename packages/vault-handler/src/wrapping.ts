import { type CallOptions, registerSecretValue, RemoteError, Secret } from '@common-handlers/core'
import type { VaultApi } from './api.ts'
import { wrappedElsewhere } from './errors.ts'
import { strings } from './secret-data.ts'

/** An answer that the server keeps, for whoever comes first with the token. */
export interface WrappedAnswer {
  /** Good for one `unwrap` or `rewrap`. */
  readonly token: Secret
  /** Names the token without opening anything. */
  readonly accessor: string
  readonly ttlMs: number
  readonly createdAt: Date
  /** The request that was wrapped: `auth/approle/role/app/secret-id`. */
  readonly creationPath: string
}

/** What a wrapping token says about itself. */
export type WrappingFacts = Pick<WrappedAnswer, 'ttlMs' | 'createdAt' | 'creationPath'>

/** The answer that was wrapped. Its texts are registered with the scrubber. */
export interface UnwrappedAnswer {
  readonly data: Readonly<Record<string, unknown>> | undefined
  /** Of a login or a new token: `client_token`, `policies` … */
  readonly auth: Readonly<Record<string, unknown>> | undefined
}

export interface UnwrapOptions extends CallOptions {
  /**
   * The path the answer must come from. It is looked up first, for a token that somebody unwrapped on the way and wrapped
   * again comes from `sys/wrapping/wrap`.
   */
  readonly creationPath?: string | undefined
}

interface WrapInfo {
  readonly token: string
  readonly accessor: string
  readonly ttl: number
  readonly creation_time: string
  readonly creation_path: string
}

/** Response wrapping: hands a secret on as a token that works once. */
export class Wrapping {
  readonly #api: VaultApi

  constructor(api: VaultApi) {
    this.#api = api
  }

  /** Wraps data of one's own. `ttlMs` is rounded up to whole seconds. For an answer of the server see `wrapTtlMs` of `request`. */
  wrap(data: Readonly<Record<string, unknown>>, ttlMs: number, options?: CallOptions): Promise<WrappedAnswer> {
    return this.#api.call('wrap data', options, async (signal) => {
      const path = 'sys/wrapping/wrap'
      const request = { method: 'POST', path, body: data, headers: wrapHeader(ttlMs), idempotent: true }
      return readWrapped(path, await this.#api.authorised(request, signal))
    })
  }

  /** What a wrapping token holds, without opening it. Needs no token of one's own. @throws AuthError `VAULT_WRAPPING_TOKEN_INVALID` */
  lookup(token: Secret | string, options?: CallOptions): Promise<WrappingFacts> {
    return this.#api.call('look up a wrapping token', options, (signal) => this.#lookUp(asSecret(token), signal))
  }

  /** The same answer under a new token, with the same time to live; the old token ends. @throws AuthError `VAULT_WRAPPING_TOKEN_INVALID` */
  rewrap(token: Secret | string, options?: CallOptions): Promise<WrappedAnswer> {
    return this.#api.call('rewrap a wrapping token', options, async (signal) => {
      const path = 'sys/wrapping/rewrap'
      const request = { method: 'POST', path, body: { token: asSecret(token) }, idempotent: false }
      return readWrapped(path, await this.#api.authorised(request, signal))
    })
  }

  /**
   * The answer a wrapping token holds; the token works once and needs no other one beside it.
   * @throws AuthError `VAULT_WRAPPING_TOKEN_INVALID` for one that was used, has expired or never was: if nobody of yours
   * used it, somebody else did
   * @throws AuthError `VAULT_WRAPPING_TOKEN_FOREIGN` when it holds something else than `creationPath`; it is not opened then
   */
  unwrap(token: Secret | string, options: UnwrapOptions = {}): Promise<UnwrappedAnswer> {
    return this.#api.call('unwrap', options, async (signal) => {
      const wrapping = asSecret(token)
      if (options.creationPath !== undefined) {
        const { creationPath } = await this.#lookUp(wrapping, signal)
        if (creationPath !== options.creationPath) throw wrappedElsewhere(creationPath, options.creationPath)
      }
      const request = { method: 'POST', path: 'sys/wrapping/unwrap', token: wrapping, body: {}, idempotent: false }
      const answer = await this.#api.send(request, signal)
      const { data, auth } = (answer ?? {}) as { readonly [K in keyof UnwrappedAnswer]?: UnwrappedAnswer[K] | null }
      for (const text of strings([data, auth])) registerSecretValue(text)
      return { data: data ?? undefined, auth: auth ?? undefined }
    })
  }

  async #lookUp(token: Secret, signal: AbortSignal): Promise<WrappingFacts> {
    const request = { method: 'POST', path: 'sys/wrapping/lookup', body: { token }, idempotent: true }
    const { data } = (await this.#api.send(request, signal)) as {
      readonly data: { readonly creation_path: string; readonly creation_time: string; readonly creation_ttl: number }
    }
    return { creationPath: data.creation_path, createdAt: new Date(data.creation_time), ttlMs: data.creation_ttl * 1000 }
  }
}

/** Asks the server to wrap its answer. It counts in whole seconds. */
export function wrapHeader(ttlMs: number): Readonly<Record<string, string>> {
  return { 'X-Vault-Wrap-TTL': `${Math.ceil(ttlMs / 1000)}s` }
}

/** @throws RemoteError `VAULT_ANSWER_NOT_WRAPPED` for a request whose answer is empty, so that there was nothing to wrap */
export function readWrapped(path: string, answer: unknown): WrappedAnswer {
  const info = (answer as { readonly wrap_info?: WrapInfo | null } | undefined)?.wrap_info
  if (info === undefined || info === null) {
    throw new RemoteError(`${path}: the server did not wrap its answer`, {
      code: 'VAULT_ANSWER_NOT_WRAPPED',
      context: { path },
      serverCode: 'not wrapped',
    })
  }
  return {
    token: new Secret(info.token),
    accessor: info.accessor,
    ttlMs: info.ttl * 1000,
    createdAt: new Date(info.creation_time),
    creationPath: info.creation_path,
  }
}

const asSecret = (token: Secret | string): Secret => (typeof token === 'string' ? new Secret(token) : token)
