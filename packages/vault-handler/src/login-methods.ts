import { readFile } from 'node:fs/promises'
import { AuthError, Secret, withDeadline, untilAborted } from '@common-handlers/core'
import type { ApiRequest } from './client.ts'
import { type AppRoleConfig, type AwsCredentials, awsCredentialsFromEnvironment, type VaultConfig } from './config.ts'
import { awsCredentialsRefused, credentialFileUnreadable, wrappedElsewhere } from './errors.ts'

/** A request without the token of the handler: it is how one is had. */
export type Send = (request: ApiRequest) => Promise<unknown>

/** How a handler comes by its token. */
export interface LoginMethod {
  /** For messages: `token`, `token in /run/vault/token`, `token from auth/approle`. */
  readonly origin: string
  /** Can it get another token when one is lost? */
  readonly again: boolean
  obtain(send: Send): Promise<Obtained>
}

export interface Obtained {
  readonly token: Secret
  /** True for a token that exists for this handler alone and that can be revoked. */
  readonly own: boolean
  /** Undefined for a token whose life only the server knows. */
  readonly life?: TokenLife | undefined
}

/** The part of an answer that tells how long a token lives. */
export interface TokenLife {
  /** Seconds; 0 for a token without end. */
  readonly lease_duration: number
  readonly renewable: boolean
  /** How often it can be used; 0 for without limit. */
  readonly num_uses?: number
}

/** The `auth` part of the answer to a login. */
interface LoginAnswer extends TokenLife {
  readonly client_token: string
  readonly token_type?: string
}

type Body = Readonly<Record<string, string>>

const SERVICE_ACCOUNT_TOKEN = '/var/run/secrets/kubernetes.io/serviceaccount/token'

/** The method that a configuration names; undefined where it names none. */
export function loginMethodOf(config: VaultConfig): LoginMethod | undefined {
  const { token, tokenFile, appRole, userpass, kubernetes, jwt, cert, aws } = config
  if (token !== undefined) {
    return { origin: 'token', again: false, obtain: async () => ({ token, own: false }) }
  }
  if (tokenFile !== undefined) {
    return {
      origin: `token in ${tokenFile}`,
      again: true,
      obtain: async () => ({ token: await readCredential(tokenFile), own: false }),
    }
  }
  if (appRole !== undefined) {
    const mount = appRole.mount ?? 'approle'
    const secretIdOf = secretIdSource(appRole, mount)
    return byLogin(mount, 'login', async (send) => {
      const secretId = await secretIdOf(send)
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
  if (cert !== undefined) {
    return byLogin(cert.mount ?? 'cert', 'login', async () => (cert.name === undefined ? {} : { name: cert.name }))
  }
  if (aws !== undefined) {
    return byLogin(aws.mount ?? 'aws', 'login', async () => {
      const { awsLogin } = await import('./aws-login.ts')
      const { credentials } = aws
      return awsLogin(
        aws,
        credentials === undefined ? awsCredentialsFromEnvironment() : await askFor(credentials, config.timeoutMs),
      )
    })
  }
  return undefined
}

function byLogin(mount: string, action: string, body: (send: Send) => Promise<Body>): LoginMethod {
  const path = `auth/${mount}/${action}`
  return {
    origin: `token from auth/${mount}`,
    again: true,
    obtain: async (send) => {
      const answer = await send({ method: 'POST', path, body: await body(send), idempotent: true })
      const auth = (answer as { readonly auth?: LoginAnswer | null } | undefined)?.auth
      if (auth === undefined || auth === null || typeof auth.client_token !== 'string' || auth.client_token === '') {
        throw new AuthError(`the login at ${path} gave no token; does the method ask for a second factor?`, {
          code: 'VAULT_LOGIN_FAILED',
          context: { path },
        })
      }
      // A batch token is not stored by the server and cannot be revoked.
      return { token: new Secret(auth.client_token), own: auth.token_type !== 'batch', life: auth }
    },
  }
}

/** What a function of somebody else gives, as long as one request may take. */
function askFor(credentials: () => Promise<AwsCredentials>, timeoutMs: number): Promise<AwsCredentials> {
  return withDeadline({ timeoutMs }, { prefix: 'VAULT', action: 'asking aws.credentials for keys' }, async ({ signal }) => {
    try {
      return await untilAborted(credentials(), signal)
    } catch (error) {
      throw awsCredentialsRefused(error)
    }
  })
}

function secretIdSource(appRole: AppRoleConfig, mount: string): (send: Send) => Promise<Secret | undefined> {
  const { secretId, secretIdFile, secretIdWrapped, secretIdWrappedFile } = appRole
  if (secretIdWrapped === undefined && secretIdWrappedFile === undefined) return () => given(secretId, secretIdFile)
  let unwrapped: { readonly from: string; readonly secretId: Secret } | undefined
  return async (send) => {
    const token = await given(secretIdWrapped, secretIdWrappedFile)
    if (token !== undefined && token.expose() !== unwrapped?.from) {
      unwrapped = { from: token.expose(), secretId: await unwrapSecretId(token, mount, send) }
    }
    return unwrapped?.secretId
  }
}

/**
 * A wrapping token is looked up before it is used: one that was made by another path was put there by somebody else
 * ("Response wrapping", Response-wrapping token validation).
 */
async function unwrapSecretId(token: Secret, mount: string, send: Send): Promise<Secret> {
  const answer = await send({ method: 'POST', path: 'sys/wrapping/lookup', body: { token: token.expose() }, idempotent: true })
  const madeBy = (answer as { readonly data?: { readonly creation_path?: string } } | undefined)?.data?.creation_path ?? ''
  const inside = madeBy.startsWith(`auth/${mount}/role/`) ? madeBy.slice(`auth/${mount}/role/`.length) : ''
  if (!/^[^/]+\/secret-id$/.test(inside)) throw wrappedElsewhere(madeBy, `auth/${mount}/role/<role>/secret-id`)
  // Not a second time after an answer that was lost: the server has forgotten the token by then.
  const unwrapped = await send({ method: 'POST', path: 'sys/wrapping/unwrap', token, idempotent: false })
  return new Secret((unwrapped as { readonly data: { readonly secret_id: string } }).data.secret_id)
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
