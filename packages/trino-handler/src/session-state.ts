import { ConfigError } from '@common-handlers/core'
import type { TrinoConfig } from './config.ts'
import type { TransportReply } from './transport.ts'

/** What a session starts with; the handler's options where nothing is said. */
export interface SessionOptions {
  readonly catalog?: string | undefined
  readonly schema?: string | undefined
  readonly path?: string | undefined
  readonly timeZone?: string | undefined
  readonly clientTags?: readonly string[] | undefined
  /** Added to those of the handler. */
  readonly sessionProperties?: Readonly<Record<string, string>> | undefined
  /** Added to those of the handler. */
  readonly roles?: Readonly<Record<string, string>> | undefined
}

const decode = (text: string): string => decodeURIComponent(text.replaceAll('+', ' '))

/** The values of a header; a proxy may have joined several into one line, and within a value commas are encoded. */
function valuesOf(headers: TransportReply['headers'], name: string): string[] {
  const found = headers[`x-trino-${name}`]
  if (found === undefined) return []
  return (typeof found === 'string' ? [found] : [...found]).flatMap((line) => line.split(',')).map((value) => value.trim())
}

/** A header that is no list and not encoded: the name of a catalog, a schema or a user may hold commas, plus and percent signs. */
function plain(headers: TransportReply['headers'], name: string): string | undefined {
  const found = headers[`x-trino-${name}`]
  return found === undefined || typeof found === 'string' ? found : found.join(',')
}

function pair(value: string): [string, string] {
  const at = value.indexOf('=')
  return at === -1 ? [value, ''] : [value.slice(0, at), decode(value.slice(at + 1))]
}

/** `ROLE{name}`, `ALL` and `NONE` are what the protocol writes. */
const roleText = (role: string): string => (/^(ALL|NONE|ROLE\{.*\})$/.test(role) ? role : `ROLE{${role}}`)

/**
 * What the headers of a statement say about its session, and what those of an answer change in it:
 * https://trino.io/docs/current/develop/client-protocol.html#client-request-headers
 */
export class SessionState {
  catalog: string | undefined
  schema: string | undefined
  path: string | undefined
  /** `SET SESSION AUTHORIZATION` was made; the user of the options is the original one. */
  authorizationUser: string | undefined
  transactionId: string | undefined
  readonly timeZone: string
  readonly properties: Map<string, string>
  readonly roles: Map<string, string>
  readonly prepared: Map<string, string> = new Map()
  readonly #clientTags: readonly string[]
  readonly #extraCredentials: TrinoConfig['extraCredentials']
  #originalRoles: string | undefined

  constructor(config: TrinoConfig, options: SessionOptions = {}) {
    this.catalog = options.catalog ?? config.catalog
    this.schema = options.schema ?? config.schema
    this.path = options.path ?? config.path
    this.timeZone = options.timeZone ?? config.timeZone
    this.properties = new Map(Object.entries({ ...config.sessionProperties, ...options.sessionProperties }))
    const roles = Object.entries({ ...config.roles, ...options.roles })
    this.roles = new Map(roles.map(([catalog, role]) => [catalog, roleText(role)]))
    this.#clientTags = options.clientTags ?? config.clientTags
    this.#extraCredentials = config.extraCredentials
  }

  headers(): Record<string, string> {
    const list = (entries: Iterable<readonly [string, string]>): string | undefined =>
      [...entries].map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join(',') || undefined
    const { authorizationUser } = this
    const secrets = Object.entries(this.#extraCredentials).map(([name, value]) => [name, value.expose()] as const)
    const headers: Record<string, string | undefined> = {
      // PARAMETRIC_DATETIME: without it, every time and timestamp is cut to milliseconds.
      'X-Trino-Client-Capabilities': 'PATH,PARAMETRIC_DATETIME,SESSION_AUTHORIZATION',
      'X-Trino-Time-Zone': this.timeZone,
      'Content-Type': 'text/plain; charset=utf-8',
      'X-Trino-Catalog': this.catalog,
      'X-Trino-Schema': this.schema,
      'X-Trino-Path': this.path,
      'X-Trino-Session': list(this.properties),
      'X-Trino-Role': list(this.roles),
      'X-Trino-Client-Tags': this.#clientTags.join(',') || undefined,
      'X-Trino-Extra-Credential': list(secrets),
      'X-Trino-Prepared-Statement': list([...this.prepared].map(([name, text]) => [encodeURIComponent(name), text])),
      ...(authorizationUser === undefined
        ? {}
        : {
            // Whose place this user takes, who logs in says.
            'X-Trino-User': authorizationUser,
            'X-Trino-Original-Roles': this.#originalRoles,
          }),
      // It also tells the server that this client can hold a transaction.
      'X-Trino-Transaction-Id': this.transactionId ?? 'NONE',
    }
    return Object.fromEntries(Object.entries(headers).filter((entry): entry is [string, string] => entry[1] !== undefined))
  }

  /** Takes over what an answer changes. */
  apply(headers: TransportReply['headers']): void {
    this.catalog = plain(headers, 'set-catalog') ?? this.catalog
    this.schema = plain(headers, 'set-schema') ?? this.schema
    this.path = plain(headers, 'set-path') ?? this.path
    for (const value of valuesOf(headers, 'set-session')) this.properties.set(...pair(value))
    for (const name of valuesOf(headers, 'clear-session')) this.properties.delete(name)
    for (const value of valuesOf(headers, 'set-role')) this.roles.set(...pair(value))
    for (const value of valuesOf(headers, 'added-prepare')) {
      const [name, text] = pair(value)
      this.prepared.set(decode(name), text)
    }
    for (const name of valuesOf(headers, 'deallocated-prepare')) this.prepared.delete(decode(name))
    this.#authorize(plain(headers, 'set-authorization-user'), headers)
    this.transactionId = plain(headers, 'started-transaction-id') ?? this.transactionId
    if (plain(headers, 'clear-transaction-id') !== undefined) this.transactionId = undefined
  }

  #authorize(user: string | undefined, headers: TransportReply['headers']): void {
    if (user !== undefined) {
      this.authorizationUser = user
      this.#originalRoles = valuesOf(headers, 'set-original-roles').join(',') || undefined
      // Roles were those of the user before.
      this.roles.clear()
    }
    if (valuesOf(headers, 'reset-authorization-user').length > 0) {
      this.authorizationUser = undefined
      this.#originalRoles = undefined
      this.roles.clear()
    }
  }
}

/** `X-Trino-Set-Session`, `-Clear-Session`, `-Set-Catalog`, `-Added-Prepare`, `-Started-Transaction-Id` and their like. */
const SESSION_CHANGE = /^x-trino-(set|clear|reset|added|deallocated|started)-/

/** A statement that changes a session would be without effect on the next one, and nobody would notice. */
export function refuseSessionChange(headers: TransportReply['headers'], queryId: string): void {
  const header = Object.keys(headers).find((name) => SESSION_CHANGE.test(name))
  if (header === undefined) return
  throw new ConfigError(
    `the statement changes the session (${header}), and each statement of the handler has its own: run it in a session(), or give catalog, schema, time zone and session properties as options`,
    { code: 'TRINO_SESSION_CHANGE', context: { queryId, header } },
  )
}
