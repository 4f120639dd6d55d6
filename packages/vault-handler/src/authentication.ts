import { readFile } from 'node:fs/promises'
import { Secret, type Logger } from '@common-handlers/core'
import type { VaultConfig } from './config.ts'
import { credentialFileUnreadable } from './errors.ts'
import { untilAborted } from './until-aborted.ts'

/** Where a login is sent, and what. */
export interface LoginRequest {
  readonly path: string
  readonly body: Readonly<Record<string, string>>
}

/** The `auth` part of the answer to a login. */
export interface LoginAnswer {
  readonly client_token: string
  /** Seconds; 0 for a token without end. */
  readonly lease_duration: number
  readonly token_type?: string
}

type Login = (request: LoginRequest) => Promise<LoginAnswer>

/** How a handler comes by its token. */
interface Method {
  /** For messages: `token`, `token in /run/vault/token`, `token from auth/approle`. */
  readonly origin: string
  /** Can it get another token when one is lost? */
  readonly again: boolean
  readonly obtain: (login: Login) => Promise<Obtained>
}

interface Obtained {
  readonly token: Secret
  /** In the time of `Date.now()`; Infinity for a token without end or with one that is not ours to know. */
  readonly expiresAt: number
  /** True for a token that exists for this handler alone and that can be revoked. */
  readonly own: boolean
}

const SERVICE_ACCOUNT_TOKEN = '/var/run/secrets/kubernetes.io/serviceaccount/token'
/** A token is replaced this long before its end, or at nine tenths of its life where that is later. */
const EARLY_MS = 30_000

/** The token of a handler: obtained at the first call that needs it, by one login however many calls wait for it. */
export class TokenSource {
  readonly #method: Method | undefined
  readonly #login: Login
  readonly #logger: Logger
  readonly #onReplaced: () => void
  /** The last token that was obtained, also when it has been forgotten since. */
  #last: Secret | undefined
  #current: (Obtained & { readonly replaceAt: number }) | undefined
  #pending: Promise<void> | undefined

  /** `onReplaced` is told of a token that takes the place of another one. */
  constructor(config: VaultConfig, login: Login, logger: Logger, onReplaced: () => void) {
    this.#method = methodOf(config)
    this.#login = login
    this.#logger = logger
    this.#onReplaced = onReplaced
  }

  /** For messages; undefined where no way to log in was given. */
  get origin(): string | undefined {
    return this.#method?.origin
  }

  /** Can another token be had when this one is refused? */
  get canReplace(): boolean {
    return this.#method?.again ?? false
  }

  /** A token that was obtained by logging in and that nobody else uses. */
  get own(): Secret | undefined {
    return this.#current?.own === true ? this.#current.token : undefined
  }

  /** The token, obtained or replaced first where needed; undefined where no way to log in was given. */
  async get(signal: AbortSignal): Promise<Secret | undefined> {
    const method = this.#method
    if (method === undefined) return undefined
    if (this.#current === undefined || Date.now() >= this.#current.replaceAt) {
      this.#pending ??= this.#obtain(method).finally(() => {
        this.#pending = undefined
      })
      await untilAborted(this.#pending, signal)
    }
    return this.#current?.token
  }

  /** Forgets the token if it is still the current one: of many calls that were refused at once, one causes a login. */
  invalidate(token: Secret): void {
    if (this.#current?.token === token) this.#current = undefined
  }

  async #obtain(method: Method): Promise<void> {
    const before = this.#current
    try {
      const obtained = await method.obtain(this.#login)
      const now = Date.now()
      const early = Math.min(EARLY_MS, (obtained.expiresAt - now) / 10)
      this.#current = { ...obtained, replaceAt: obtained.expiresAt === Infinity ? Infinity : obtained.expiresAt - early }
      this.#logger.debug(
        {
          origin: method.origin,
          ...(obtained.expiresAt === Infinity ? {} : { expiresAt: new Date(obtained.expiresAt).toISOString() }),
        },
        'vault token obtained',
      )
      const last = this.#last
      this.#last = obtained.token
      if (last !== undefined && last.expose() !== obtained.token.expose()) this.#onReplaced()
    } catch (error) {
      // A token that still has some seconds left serves until another can be had.
      if (before === undefined || Date.now() >= before.expiresAt) throw error
      this.#logger.warn({ origin: method.origin, err: error }, 'vault login failed; the present token is used until it ends')
    }
  }
}

function methodOf(config: VaultConfig): Method | undefined {
  const { token, tokenFile, appRole, userpass, kubernetes, jwt } = config
  if (token !== undefined) {
    return { origin: 'token', again: false, obtain: async () => ({ token, expiresAt: Infinity, own: false }) }
  }
  if (tokenFile !== undefined) {
    return {
      origin: `token in ${tokenFile}`,
      again: true,
      obtain: async () => ({ token: await readCredential(tokenFile), expiresAt: Infinity, own: false }),
    }
  }
  if (appRole !== undefined) {
    return byLogin(appRole.mount ?? 'approle', 'login', async () => {
      const secretId = await given(appRole.secretId, appRole.secretIdFile)
      return { role_id: appRole.roleId.expose(), ...(secretId === undefined ? {} : { secret_id: secretId.expose() }) }
    })
  }
  if (userpass !== undefined) {
    return byLogin(userpass.mount ?? 'userpass', `login/${userpass.username}`, async () => ({
      password: (await given(userpass.password, userpass.passwordFile))?.expose() ?? '',
    }))
  }
  if (kubernetes !== undefined) {
    return byLogin(kubernetes.mount ?? 'kubernetes', 'login', async () => ({
      role: kubernetes.role,
      jwt: (await readCredential(kubernetes.tokenFile ?? SERVICE_ACCOUNT_TOKEN)).expose(),
    }))
  }
  if (jwt !== undefined) {
    return byLogin(jwt.mount ?? 'jwt', 'login', async () => ({
      ...(jwt.role === undefined ? {} : { role: jwt.role }),
      jwt: (await given(jwt.jwt, jwt.jwtFile))?.expose() ?? '',
    }))
  }
  return undefined
}

function byLogin(mount: string, action: string, body: () => Promise<Readonly<Record<string, string>>>): Method {
  return {
    origin: `token from auth/${mount}`,
    again: true,
    obtain: async (login) => {
      const answer = await login({ path: `auth/${mount}/${action}`, body: await body() })
      return {
        token: new Secret(answer.client_token),
        expiresAt: answer.lease_duration > 0 ? Date.now() + answer.lease_duration * 1000 : Infinity,
        // A batch token is not stored by the server and cannot be revoked.
        own: answer.token_type !== 'batch',
      }
    },
  }
}

async function given(value: Secret | undefined, file: string | undefined): Promise<Secret | undefined> {
  return value ?? (file === undefined ? undefined : readCredential(file))
}

/** One line end at the end of the file is not part of the credential. */
async function readCredential(file: string): Promise<Secret> {
  let text: string
  try {
    text = (await readFile(file, 'utf8')).replace(/\r?\n$/, '')
  } catch (cause) {
    throw credentialFileUnreadable(file, cause)
  }
  if (text === '') throw credentialFileUnreadable(file, new Error('the file is empty'))
  return new Secret(text)
}
