import {
  AuthError,
  ConfigError,
  ConnectionError,
  HandlerError,
  type HandlerErrorOptions,
  NotFoundError,
  OperationTimeoutError,
  PermissionError,
  RemoteError,
} from '@common-handlers/core'

/** Where something failed. */
export interface SftpPlace {
  /** `sftp://user@host:port`. */
  readonly server: string
  readonly path?: string | undefined
}

type Build = (message: string, options: HandlerErrorOptions & { readonly serverCode: string }) => HandlerError

const missing: Build = (message, options) => new NotFoundError(message, options)
const forbidden: Build = (message, options) => new PermissionError(message, options)
const lost: Build = (message, options) => new ConnectionError(message, options)
const remote: Build = (message, options) => new RemoteError(message, options)
const auth: Build = (message, options) => new AuthError(message, options)
const late: Build = (message, options) => new OperationTimeoutError(message, options)
const config: Build = (message, options) => new ConfigError(message, options)

interface Rule {
  /** The status of the answer (draft-ietf-secsh-filexfer-02 section 7), the code of the socket, or the level that ssh2 names. */
  readonly when: string | number
  readonly message?: RegExp
  readonly code: string
  readonly retry?: HandlerErrorOptions['retry']
  readonly build: Build
}

/** The first rule that fits. */
const rules: readonly Rule[] = [
  { when: 2, code: 'SFTP_NOT_FOUND', build: missing },
  { when: 3, code: 'SFTP_FORBIDDEN', build: forbidden },
  { when: 6, code: 'SFTP_CONNECTION_LOST', retry: 'if-idempotent', build: lost },
  { when: 7, code: 'SFTP_CONNECTION_LOST', retry: 'if-idempotent', build: lost },
  ...[4, 5, 8].map((when): Rule => ({ when, code: 'SFTP_FAILED', build: remote })),
  ...['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'ETIMEDOUT'].map((when): Rule => ({
    when,
    code: 'SFTP_UNREACHABLE',
    retry: 'safe',
    build: lost,
  })),
  { when: 'client-authentication', code: 'SFTP_LOGIN_REFUSED', build: auth },
  { when: 'agent', code: 'SFTP_AGENT_UNUSABLE', build: config },
  { when: 'client-timeout', code: 'SFTP_TIMEOUT', retry: 'if-idempotent', build: late },
  { when: 'handshake', message: /no matching/i, code: 'SFTP_NOTHING_IN_COMMON', build: lost },
]

/** An error of ssh2 as one of ours. What is ours already is given back. */
export function toSftpError(error: unknown, { server, path }: SftpPlace): unknown {
  if (HandlerError.is(error) || !(error instanceof Error)) return error
  const { code, level } = error as { readonly code?: unknown; readonly level?: unknown }
  const rule = rules.find(({ when, message }) => (when === level || when === code) && (message?.test(error.message) ?? true)) ?? {
    code: 'SFTP_CONNECTION_LOST',
    retry: 'if-idempotent' as const,
    build: lost,
  }
  const { code: ours, retry, build } = rule
  return build(`${server}${path === undefined ? '' : `, ${path}`}: ${error.message}`, {
    code: ours,
    ...(retry === undefined ? {} : { retry }),
    context: { server, ...(path === undefined ? {} : { path }) },
    cause: error,
    serverCode: typeof code === 'number' || typeof code === 'string' ? String(code) : 'UNKNOWN',
  })
}

export const connectionLost = (server: string, cause?: unknown): ConnectionError =>
  new ConnectionError(`${server}: the connection was lost`, {
    code: 'SFTP_CONNECTION_LOST',
    retry: 'if-idempotent',
    context: { server },
    ...(cause === undefined ? {} : { cause }),
  })

export const hostKeyUnknown = (server: string, fingerprint: string, key: string): ConnectionError =>
  new ConnectionError(
    `${server} is not known: its key is ${fingerprint}. If the one who runs it says so too, set hostKeys to ["${fingerprint}"] (or add "${key}" to knownHosts)`,
    { code: 'SFTP_HOST_KEY_UNKNOWN', context: { server, fingerprint, key } },
  )

export const hostKeyMismatch = (server: string, fingerprint: string, key: string): ConnectionError =>
  new ConnectionError(
    `${server} shows another key than those it is known by: ${fingerprint}. It was set up anew, or somebody is in between: ask who runs it, and only then change hostKeys or knownHosts`,
    { code: 'SFTP_HOST_KEY_MISMATCH', context: { server, fingerprint, key } },
  )

export const keyUnusable = (why: string, cause: unknown): ConfigError =>
  new ConfigError(`privateKey cannot be used: ${why}`, { code: 'SFTP_KEY_UNUSABLE', cause })

export const knownHostsUnreadable = (file: string, cause: unknown): ConfigError =>
  new ConfigError(`knownHosts ${file} cannot be read: ${(cause as Error).message}`, {
    code: 'SFTP_KNOWN_HOSTS_UNREADABLE',
    context: { file },
    cause,
  })

export const urlInvalid = (): ConfigError =>
  new ConfigError('a URL for sftp ends behind the host and its port: the folder belongs into the query', {
    code: 'SFTP_URL_INVALID',
  })
