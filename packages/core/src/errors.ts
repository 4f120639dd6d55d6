import { inspect } from 'node:util'
import { scrub } from './redaction.ts'

/**
 * May the same call be made again?
 * - `safe`: nothing was applied, the call can be repeated whatever it does;
 * - `if-idempotent`: it is not known whether the call was applied;
 * - `never`: the same call would fail again.
 */
export type Retry = 'safe' | 'if-idempotent' | 'never'

/** What happened, in words that hold for every server. Each error class stands for one outcome. */
export type Outcome =
  | 'config'
  | 'auth'
  | 'not-found'
  | 'conflict'
  | 'permission'
  | 'connection'
  | 'timeout'
  | 'remote'
  | 'capacity'
  | 'data'

export interface HandlerErrorOptions {
  /** `PACKAGE_REASON`, stable across releases: `VAULT_SECRET_NOT_FOUND`. */
  readonly code: string
  readonly retry?: Retry
  /** Facts that help to find the place: bucket, key, path, statement. Never a secret; strings are scrubbed. */
  readonly context?: Readonly<Record<string, unknown>>
  /** The error underneath. It is kept by name, message, code and stack; everything else it carries is dropped. */
  readonly cause?: unknown
  /** What the server said about when to come back (`Retry-After`), in milliseconds. */
  readonly retryAfterMs?: number
}

/** Shared by every copy of this package in one process, so that two copies still know each other's errors. */
const brand = Symbol.for('@common-handlers/error')

/** The one error that handlers throw. Its subclasses say what happened; `retry` says whether to try again. */
export class HandlerError extends Error {
  readonly code: string
  readonly outcome: Outcome
  readonly retry: Retry
  readonly context: Readonly<Record<string, unknown>>
  readonly retryAfterMs: number | undefined

  constructor(outcome: Outcome, message: string, options: HandlerErrorOptions) {
    super(scrub(message), options.cause === undefined ? {} : { cause: toSafeCause(options.cause) })
    this.name = new.target.name
    this.outcome = outcome
    this.code = options.code
    this.retry = options.retry ?? 'never'
    this.context = scrubContext(options.context ?? {})
    this.retryAfterMs = options.retryAfterMs
    Object.defineProperty(this, brand, { value: true })
  }

  /** True for a handler error made by any copy of this package. */
  static is(value: unknown): value is HandlerError {
    return typeof value === 'object' && value !== null && brand in value
  }

  toJSON(): Record<string, unknown> {
    const { name, code, outcome, retry, message, context, cause } = this
    return {
      name,
      code,
      outcome,
      retry,
      message,
      ...(Object.keys(context).length > 0 ? { context } : {}),
      ...(cause instanceof Error ? { cause: HandlerError.is(cause) ? cause.toJSON() : describe(cause) } : {}),
    }
  }
}

/** The configuration cannot be used: a key is unknown, missing or has a wrong value. */
export class ConfigError extends HandlerError {
  constructor(message: string, options: HandlerErrorOptions) {
    super('config', message, options)
  }
}

/** The server does not accept who we are. */
export class AuthError extends HandlerError {
  constructor(message: string, options: HandlerErrorOptions) {
    super('auth', message, options)
  }
}

/** What was asked for does not exist. */
export class NotFoundError extends HandlerError {
  constructor(message: string, options: HandlerErrorOptions) {
    super('not-found', message, options)
  }
}

/** Somebody else was first, or the thing has changed since it was read. */
export class ConflictError extends HandlerError {
  constructor(message: string, options: HandlerErrorOptions) {
    super('conflict', message, options)
  }
}

/** The server knows us and refuses. */
export class PermissionError extends HandlerError {
  constructor(message: string, options: HandlerErrorOptions) {
    super('permission', message, options)
  }
}

/** The server could not be reached, or went away in the middle. */
export class ConnectionError extends HandlerError {
  constructor(message: string, options: HandlerErrorOptions) {
    super('connection', message, options)
  }
}

/** A limit of time has passed. Named so that it is not taken for the `TimeoutError` of AbortSignal. */
export class OperationTimeoutError extends HandlerError {
  constructor(message: string, options: HandlerErrorOptions) {
    super('timeout', message, options)
  }
}

/** The server did the work and reports that it failed. `serverCode` is its own: SQLSTATE, Trino error name, HTTP status, S3 code. */
export class RemoteError extends HandlerError {
  readonly serverCode: string
  constructor(message: string, options: HandlerErrorOptions & { readonly serverCode: string }) {
    super('remote', message, options)
    this.serverCode = options.serverCode
  }
  override toJSON(): Record<string, unknown> {
    return { ...super.toJSON(), serverCode: this.serverCode }
  }
}

/** Something is full or over its limit: a disk, a pool, a quota, a request rate. */
export class CapacityError extends HandlerError {
  constructor(message: string, options: HandlerErrorOptions) {
    super('capacity', message, options)
  }
}

/** Where a value that cannot be used was found. Lines and columns count from 1. */
export interface DataLocation {
  readonly file?: string
  readonly line?: number
  readonly column?: string | number
}

/** The data itself is not what it says it is. `where` names the place. */
export class DataError extends HandlerError {
  readonly where: DataLocation
  constructor(message: string, options: HandlerErrorOptions & { readonly where?: DataLocation }) {
    super('data', message, options)
    this.where = options.where ?? {}
  }
  override toJSON(): Record<string, unknown> {
    return { ...super.toJSON(), where: this.where }
  }
}

/**
 * The part of a driver's error that is safe to keep. Drivers hang requests, headers and whole configurations on their
 * errors, tokens and passwords among them; a name, a scrubbed message, a code and a stack tell the same story.
 */
export function toSafeCause(cause: unknown): Error {
  if (HandlerError.is(cause)) return cause
  if (!(cause instanceof Error)) return new Error(scrub(typeof cause === 'string' ? cause : inspect(cause, { depth: 1 })))
  const safe = new Error(scrub(cause.message), cause.cause === undefined ? {} : { cause: toSafeCause(cause.cause) })
  safe.name = cause.name
  if (cause.stack !== undefined) safe.stack = scrub(cause.stack)
  const code = (cause as { code?: unknown }).code
  if (typeof code === 'string' || typeof code === 'number') Object.assign(safe, { code })
  return safe
}

function describe(error: Error): Record<string, unknown> {
  const code = (error as { code?: unknown }).code
  return { name: error.name, message: error.message, ...(code === undefined ? {} : { code }) }
}

function scrubContext(context: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(context).map(([key, value]) => [key, typeof value === 'string' ? scrub(value) : value]),
  )
}
