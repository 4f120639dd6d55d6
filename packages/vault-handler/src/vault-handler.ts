import {
  type CallOptions,
  type CheckResult,
  type Closable,
  type CloseOptions,
  ConnectionError,
  HandlerError,
  Lifecycle,
  type Logger,
  NotFoundError,
  type RetryPolicy,
  runCheck,
  type Secret,
  silentLogger,
  withDeadline,
  isStandardSchema,
  type StandardSchema,
} from '@common-handlers/core'
import type { VaultApi } from './api.ts'
import { TokenSource } from './authentication.ts'
import { type ApiRequest, VaultClient } from './client.ts'
import {
  loginMethods,
  parseVaultConfig,
  type Variables,
  type VaultConfig,
  type VaultConfigInput,
  vaultConfigFromEnvironment,
} from './config.ts'
import { noCredentials, nodeUnusable, tokenRefused } from './errors.ts'
import { askForHealth, readHealth, type VaultHealth } from './health.ts'
import { Lease, type LeaseOptions } from './lease.ts'
import { writeExact } from './exact-json.ts'
import { KeyValue } from './key-value.ts'
import type { SecretData } from './secret-data.ts'
import { parseReference } from './secret-path.ts'
import { Transit } from './transit.ts'
import { SecretCache } from './secret-cache.ts'
import { lookUpSelf, readTokenInfo, VaultToken } from './token.ts'
import { validate } from './validate.ts'
import { readWrapped, type WrappedAnswer, wrapHeader, Wrapping } from './wrapping.ts'

/** The configuration, and where to log to. */
export interface VaultHandlerOptions extends VaultConfigInput {
  /** Silent if not given. No secret reaches it. */
  readonly logger?: Logger | undefined
}

export interface GetSecretOptions extends CallOptions {
  /** A version of a KV version 2 secret; the newest if not given. */
  readonly version?: number | undefined
}

export interface RequestOptions extends CallOptions {
  readonly query?: Readonly<Record<string, string>> | undefined
  /** Sent as JSON. */
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>> | undefined
  /** May the request be made twice? Default: true for GET, HEAD, LIST, PUT and DELETE. */
  readonly idempotent?: boolean | undefined
  /** Ask the server to wrap its answer for so long; rounded up to whole seconds. */
  readonly wrapTtlMs?: number | undefined
}

const READS = new Set(['GET', 'HEAD', 'LIST'])
const IDEMPOTENT = new Set([...READS, 'PUT', 'DELETE'])
const RELEASE_TIMEOUT_MS = 2_000

/**
 * Secrets from HashiCorp Vault and OpenBao. Making one does no work; the first call logs in.
 *
 * @example
 * await using vault = new VaultHandler({ address: 'https://vault:8200', appRole: { roleId, secretIdFile } })
 * const secrets = await vault.getSecret('secret/postgres/db')
 */
export class VaultHandler implements Closable {
  /** The KV engine: read, write, check-and-set, versions, metadata, lists. */
  readonly kv: KeyValue
  /** Response wrapping: hand a secret on as a token that works once. */
  readonly wrapping: Wrapping
  /** The token in use: look it up, renew it, revoke it. */
  readonly token: VaultToken
  readonly #config: VaultConfig
  readonly #client: VaultClient
  readonly #tokens: TokenSource
  readonly #cache: SecretCache | undefined
  readonly #lifecycle: Lifecycle
  readonly #closing = new AbortController()
  readonly #ended = new AbortController()
  readonly #releases = new Set<(signal: AbortSignal) => Promise<void>>()
  readonly #api: VaultApi

  /** @throws ConfigError `VAULT_CONFIG_INVALID` */
  constructor(options: VaultHandlerOptions) {
    const { logger = silentLogger, ...input } = options
    this.#config = parseVaultConfig(input)
    this.#client = new VaultClient(this.#config, logger)
    this.#lifecycle = new Lifecycle('VaultHandler', 'VAULT', () => this.#release())
    this.#api = {
      logger,
      signal: AbortSignal.any([this.#lifecycle.signal, this.#ended.signal]),
      closing: this.#closing.signal,
      call: (action, callOptions, work) => this.#call(action, callOptions, work),
      authorised: (request, signal) => this.#authorised(request, signal),
      send: (request, signal) => this.#client.send(request, signal),
      onClose: (work) => {
        this.#releases.add(work)
        return () => void this.#releases.delete(work)
      },
      onTokenLost: (listener) => this.#tokens.onLost(listener),
    }
    this.#tokens = new TokenSource(this.#config, this.#api)
    this.#cache = this.#config.cache === undefined ? undefined : new SecretCache(this.#config.cache, logger)
    this.kv = new KeyValue(this.#api)
    this.wrapping = new Wrapping(this.#api)
    this.token = new VaultToken(this.#api, this.#tokens)
    if (!this.#config.tls.verify) logger.warn({ address: this.#config.address }, 'the certificate of the vault is not verified')
  }

  /**
   * A handler from the variables of the Go client (see {@link vaultConfigFromEnvironment}); options go over variables, and a
   * way to log in among the options takes the place of `VAULT_TOKEN`.
   * @throws ConfigError `VAULT_CONFIG_INVALID`
   */
  static fromEnvironment(options: Partial<VaultHandlerOptions> = {}, variables?: Variables): VaultHandler {
    const { token, tokenFile, ...found } = vaultConfigFromEnvironment(variables)
    const way = loginMethods.some((method) => options[method] !== undefined) ? {} : { token, tokenFile }
    return new VaultHandler({ ...found, ...way, ...options })
  }

  /** Logs in. Every call does so by itself; this one shows early that it works. */
  connect(options?: CallOptions): Promise<void> {
    return this.#call('log in', options, async (signal) => {
      await this.#tokens.get(signal)
    })
  }

  /**
   * The fields of a secret of the KV engine, version 1 or 2. `secret/app` and `secret/data/app` name the same secret of a
   * version 2 mount. Every text in it is registered with the scrubber, so that no later error or log line shows it.
   * With a schema of any Standard Schema library the fields are validated, and what the schema makes of them is returned.
   * @throws NotFoundError `VAULT_SECRET_NOT_FOUND`, `VAULT_VERSION_DELETED`, `VAULT_VERSION_DESTROYED`, `VAULT_MOUNT_NOT_FOUND`
   * @throws PermissionError `VAULT_PERMISSION_DENIED`
   * @throws DataError `VAULT_SECRET_INVALID` when the schema does not accept it
   */
  getSecret(path: string, options?: GetSecretOptions): Promise<SecretData>
  getSecret<T>(path: string, schema: StandardSchema<T>, options?: GetSecretOptions): Promise<T>
  async getSecret<T>(
    path: string,
    second: StandardSchema<T> | GetSecretOptions = {},
    third: GetSecretOptions = {},
  ): Promise<SecretData | T> {
    const [schema, options] = isStandardSchema(second) ? [second, third] : [undefined, second]
    const data = await this.#getData(path, options)
    return schema === undefined ? data : validate(path, data, schema)
  }

  async #getData(path: string, options: GetSecretOptions): Promise<SecretData> {
    const cache = this.#cache
    if (cache === undefined) return (await this.kv.get(path, options)).data
    const { version, ...limits } = options
    const read = async (): Promise<SecretData> => (await this.kv.get(path, { version })).data
    return this.#call(`read ${path}`, limits, (signal) => cache.get(path, version, read, signal))
  }

  /**
   * What `path#field` names, as text; a number or boolean as it is written in JSON, a list or object as JSON. Bound, so that
   * it can be handed on as the resolver of `vault:` references.
   * @throws ConfigError `VAULT_REFERENCE_INVALID`
   * @throws NotFoundError `VAULT_FIELD_NOT_FOUND` and those of getSecret
   */
  readonly resolve = async (reference: string, options: GetSecretOptions = {}): Promise<string> => {
    const { path, field } = parseReference(reference)
    const data = await this.getSecret(path, options)
    const value = Object.hasOwn(data, field) ? data[field] : undefined
    if (value === undefined || value === null) {
      throw new NotFoundError(`${path} has no field "${field}"; it has: ${Object.keys(data).join(', ')}`, {
        code: 'VAULT_FIELD_NOT_FOUND',
        context: { path, field },
      })
    }
    return typeof value === 'string' ? value : writeExact(value)
  }

  /**
   * A lease of a secret that the server makes for this reader (database, aws, pki …) or changes from time to time (static
   * roles): an object that renews it, replaces it before its end and revokes it at `close()`, its own or the handler's. As
   * `credentials` of PostgresHandler it hands over a user and password without a failed query.
   * @throws ConfigError `VAULT_LEASE_MISSING` when the answer has no lease and no end
   * @throws DataError `VAULT_SECRET_INVALID` when the schema does not accept it; and what request throws
   */
  lease(path: string, options?: LeaseOptions): Promise<Lease>
  lease<T>(path: string, schema: StandardSchema<T>, options?: LeaseOptions): Promise<Lease<T>>
  lease<T>(path: string, second?: StandardSchema<T> | LeaseOptions, third?: LeaseOptions): Promise<Lease<T>> {
    return Lease.open(this.#api, path, second, third)
  }

  /** The transit engine at a mount: encryption and signatures by keys that stay in the server. */
  transit(mount = 'transit'): Transit {
    return new Transit(this.#api, mount)
  }

  /**
   * Any request to the API, below `/v1/`: `request('POST', 'transit/encrypt/orders', { body: { plaintext } })`. The path is
   * plain text and is encoded here. Returns the answer as it is, undefined for an empty one; with `wrapTtlMs` the token under
   * which the server keeps it.
   */
  request(method: string, path: string, options: RequestOptions & { readonly wrapTtlMs: number }): Promise<WrappedAnswer>
  request(method: string, path: string, options?: RequestOptions): Promise<unknown>
  request(method: string, path: string, options: RequestOptions = {}): Promise<unknown> {
    const { wrapTtlMs } = options
    const verb = method.toUpperCase()
    const list = verb === 'LIST'
    return this.#call(`${verb} ${path}`, options, async (signal) => {
      const answer = await this.#authorised(
        {
          // Not every proxy lets the LIST verb through; the server takes this in its place.
          method: list ? 'GET' : verb,
          path,
          query: list ? { ...options.query, list: 'true' } : options.query,
          body: options.body,
          headers: wrapTtlMs === undefined ? options.headers : { ...options.headers, ...wrapHeader(wrapTtlMs) },
          idempotent: options.idempotent ?? IDEMPOTENT.has(verb),
        },
        signal,
      )
      return wrapTtlMs === undefined ? answer : readWrapped(path, answer)
    })
  }

  /** Whether the node is initialised, unsealed and active. Needs no token. */
  health(options?: CallOptions): Promise<VaultHealth> {
    return this.#call('read the health', options, (signal) => this.#health(signal, {}))
  }

  /** Asks for the state of the node, logs in and looks the token up, and says how long each took. It reports and does not throw. */
  check(options?: CallOptions): Promise<CheckResult> {
    const once = { attempts: 1 }
    return this.#lifecycle.run(options?.signal, (signal) => {
      const step = <T>(action: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> =>
        withDeadline({ signal, timeoutMs: options?.timeoutMs }, { prefix: 'VAULT', action }, (deadline) => work(deadline.signal))
      return runCheck(
        this.#client.address,
        [
          {
            name: 'read the health',
            run: () =>
              step('read the health', async (inner) => {
                const { state, version } = await this.#health(inner, once)
                if (state === 'sealed' || state === 'uninitialized' || state === 'disaster recovery secondary') {
                  throw nodeUnusable(this.#client.address, state)
                }
                return `version ${version}, ${state}`
              }),
          },
          {
            name: 'log in',
            run: () =>
              step('log in', async (inner) => {
                await this.#tokens.get(inner)
                return this.#tokens.origin ?? 'no credentials given; an agent must add the token'
              }),
          },
          {
            name: 'look up the token',
            run: () =>
              step('look up the token', async (inner) => {
                const { policies, ttlMs } = readTokenInfo(await this.#authorised({ ...lookUpSelf, policy: once }, inner))
                return `policies ${policies.join(', ')}; ${ttlMs === Infinity ? 'no end' : `${ttlMs / 1000} s left`}`
              }),
          },
        ],
        signal,
      )
    })
  }

  /** Waits for the calls under way, revokes a token that was obtained by logging in, and lets go of the connections. */
  close(options?: CloseOptions): Promise<void> {
    this.#closing.abort()
    return this.#lifecycle.close(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #call<T>(action: string, options: CallOptions | undefined, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return this.#lifecycle.run(options?.signal, (signal) =>
      withDeadline({ signal, timeoutMs: options?.timeoutMs }, { prefix: 'VAULT', action }, (deadline) => work(deadline.signal)),
    )
  }

  async #authorised(request: ApiRequest, signal: AbortSignal): Promise<unknown> {
    try {
      return await this.#withToken(request, signal)
    } finally {
      // A write that failed may have been applied all the same.
      if (!READS.has(request.method)) this.#cache?.forget(request.path)
    }
  }

  /** A request with the token. When the server no longer knows the token, one login and one more try. */
  async #withToken(request: ApiRequest, signal: AbortSignal): Promise<unknown> {
    const token = await this.#tokens.get(signal)
    try {
      return await this.#client.send({ ...request, token }, signal)
    } catch (error) {
      if (!HandlerError.is(error) || error.code !== 'VAULT_PERMISSION_DENIED') throw error
      const facts = { method: request.method, path: request.path }
      // An agent that adds a token of its own is refused as its owner would be.
      if (token === undefined) throw error.context['tokenKnown'] === true ? error : noCredentials(facts)
      if (await this.#isKnown(token, signal)) throw error
      const origin = this.#tokens.origin ?? 'token'
      if (this.#tokens.canReplace) {
        this.#tokens.invalidate(token)
        const next = await this.#tokens.get(signal)
        // A token file may hold what it held before.
        if (next !== undefined && next.expose() !== token.expose()) return this.#client.send({ ...request, token: next }, signal)
      }
      throw tokenRefused(facts, origin, error)
    }
  }

  /**
   * A refusal by policy and one for a token that has ended look alike; a look at the token tells them apart. Without the
   * default policy even that may be forbidden: then the words of the answer do.
   */
  async #isKnown(token: Secret, signal: AbortSignal): Promise<boolean> {
    try {
      await this.#client.send({ ...lookUpSelf, token }, signal)
      return true
    } catch (error) {
      if (!HandlerError.is(error) || error.code !== 'VAULT_PERMISSION_DENIED') throw error
      return error.context['tokenKnown'] === true
    }
  }

  async #health(signal: AbortSignal, policy: Partial<RetryPolicy>): Promise<VaultHealth> {
    return readHealth(await this.#client.send({ ...askForHealth, policy }, signal))
  }

  async #release(): Promise<void> {
    // Leases and tokens end by themselves if this fails; a close must not.
    const signal = AbortSignal.timeout(RELEASE_TIMEOUT_MS)
    await Promise.allSettled([...this.#releases].map((work) => work(signal)))
    this.#ended.abort(new ConnectionError('VaultHandler was closed', { code: 'VAULT_CLOSED' }))
    const token = this.#config.revokeOnClose ? this.#tokens.own : undefined
    if (token !== undefined) {
      const request = { method: 'POST', path: 'auth/token/revoke-self', token, idempotent: true, policy: { attempts: 1 } }
      await this.#client.send(request, AbortSignal.timeout(RELEASE_TIMEOUT_MS)).catch(() => undefined)
    }
    await this.#client.close()
  }
}
