import {
  AuthError,
  CapacityError,
  ConfigError,
  ConflictError,
  ConnectionError,
  DataError,
  HandlerError,
  type HandlerErrorOptions,
  NotFoundError,
  OperationTimeoutError,
  PermissionError,
  RemoteError,
} from '@common-handlers/core'

/** Where something failed. */
export interface FtpPlace {
  /** `ftp://user@host:port`. */
  readonly server: string
  readonly path?: string | undefined
  /** What was under way before there was a session; the same answers mean other things then. */
  readonly phase?: 'connect' | 'tls' | 'login' | undefined
}

type Build = (message: string, options: HandlerErrorOptions & { readonly serverCode: string }) => HandlerError

const auth: Build = (message, options) => new AuthError(message, options)
const missing: Build = (message, options) => new NotFoundError(message, options)
const forbidden: Build = (message, options) => new PermissionError(message, options)
const conflict: Build = (message, options) => new ConflictError(message, options)
const capacity: Build = (message, options) => new CapacityError(message, options)
const lost: Build = (message, options) => new ConnectionError(message, options)
const config: Build = (message, options) => new ConfigError(message, options)
const data: Build = (message, options) => new DataError(message, options)
const late: Build = (message, options) => new OperationTimeoutError(message, options)
const remote: Build = (message, options) => new RemoteError(message, options)

interface Rule {
  /** Replies of the server (RFC 959 section 4.2, RFC 4217), or codes of the socket. */
  readonly when: readonly (number | string)[] | RegExp
  readonly message?: RegExp
  readonly phases?: readonly FtpPlace['phase'][]
  readonly code: string
  readonly retry?: HandlerErrorOptions['retry']
  readonly advice?: string
  readonly build: Build
}

const tlsAdvice = 'the server has no TLS here: another port, or tls "none" where the network is safe'
const anyCode = /^/

/** The first rule that fits. */
const rules: readonly Rule[] = [
  {
    when: anyCode,
    message: /\b(ssl|tls)\b.*\brequired\b|\brequires?\b.*\b(ssl|tls)\b|must use (encryption|ssl|tls)/i,
    code: 'FTP_TLS_REQUIRED',
    advice: 'set tls to "explicit"',
    build: lost,
  },
  { when: [421], phases: ['connect', 'tls', 'login'], code: 'FTP_BUSY', retry: 'safe', build: capacity },
  { when: /^[45]\d\d$/, phases: ['tls'], code: 'FTP_TLS_UNAVAILABLE', advice: tlsAdvice, build: lost },
  { when: [430, 530, 532, 332], phases: ['login'], code: 'FTP_LOGIN_REFUSED', build: auth },
  { when: [550, 551, 553], message: /permission|denied|not allowed|access|privilege/i, code: 'FTP_FORBIDDEN', build: forbidden },
  { when: [550, 551], code: 'FTP_NOT_FOUND', build: missing },
  { when: [553, 532], code: 'FTP_FORBIDDEN', build: forbidden },
  { when: [450], code: 'FTP_FILE_BUSY', retry: 'safe', build: conflict },
  { when: [421, 425, 426], code: 'FTP_CONNECTION_LOST', retry: 'if-idempotent', build: lost },
  { when: [451], code: 'FTP_FAILED', retry: 'if-idempotent', build: remote },
  {
    when: ['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'ETIMEDOUT'],
    code: 'FTP_UNREACHABLE',
    retry: 'safe',
    build: lost,
  },
  {
    when: /^(CERT_|ERR_TLS_|ERR_SSL_|UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO|EPROTO$)/,
    code: 'FTP_TLS_FAILED',
    advice: "give the certificate that signed the server's as ca",
    build: lost,
  },
  { when: anyCode, message: /^Invalid command: Contains control characters/, code: 'FTP_PATH_INVALID', build: config },
  { when: anyCode, message: /Maximum bytes exceeded/, code: 'FTP_LIST_TOO_LARGE', build: capacity },
  { when: anyCode, message: /^(Can't parse|This library only supports)/, code: 'FTP_ANSWER_INVALID', build: data },
  {
    when: anyCode,
    message: /^None of the available transfer strategies work/,
    code: 'FTP_NO_DATA_CONNECTION',
    retry: 'if-idempotent',
    advice: 'a firewall may let the port of the login through and not those that the server names for its data',
    build: lost,
  },
  { when: anyCode, message: /^timeout\b/i, code: 'FTP_TIMEOUT', retry: 'if-idempotent', build: late },
]

/** An error of basic-ftp as one of ours. What is ours already is given back. */
export function toFtpError(error: unknown, { server, path, phase }: FtpPlace): unknown {
  if (HandlerError.is(error) || !(error instanceof Error)) return error
  const { code = '' } = error as { readonly code?: number | string }
  const rule = rules.find(({ when, message, phases }) => {
    const fits = when instanceof RegExp ? when.test(String(code)) : when.includes(code)
    return fits && (message?.test(error.message) ?? true) && (phases?.includes(phase) ?? true)
  })
  const fallback: Rule =
    typeof code === 'number'
      ? { when: [], code: 'FTP_FAILED', build: remote }
      : { when: [], code: 'FTP_CONNECTION_LOST', retry: 'if-idempotent', build: lost }
  const { code: ours, retry, advice, build } = rule ?? fallback
  const said = error.message.replace(/\s+/g, ' ').trim()
  return build(`${server}${path === undefined ? '' : `, ${path}`}: ${said}${advice === undefined ? '' : ` (${advice})`}`, {
    code: ours,
    ...(retry === undefined ? {} : { retry }),
    context: { server, ...(path === undefined ? {} : { path }) },
    cause: error,
    serverCode: code === '' ? 'UNKNOWN' : String(code),
  })
}

/** A file that is there, and cannot be read. */
export const notReadable = (server: string, path: string, cause: unknown): PermissionError =>
  new PermissionError(`${server}, ${path} is there and cannot be opened`, {
    code: 'FTP_FORBIDDEN',
    context: { server, path },
    cause,
  })

export const urlInvalid = (): ConfigError =>
  new ConfigError('a URL for ftp ends behind the host and its port: the folder belongs into the query', {
    code: 'FTP_URL_INVALID',
  })
