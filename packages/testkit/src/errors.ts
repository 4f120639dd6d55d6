/** A server that a test or a demonstration asked for cannot be had here; the message says why and what would help. */
export class ServerUnavailable extends Error {
  override readonly name = 'ServerUnavailable'
  readonly code = 'TESTKIT_SERVER_UNAVAILABLE'
  /** The kind of server: `postgres`, `trino`, … */
  readonly server: string
  readonly reason: string

  constructor(server: string, reason: string, options?: ErrorOptions) {
    super(`${server} cannot be had: ${reason}`, options)
    this.server = server
    this.reason = reason
  }
}

/** A server was there but did not start; the message ends with the last lines of its log. */
export class ServerStartError extends Error {
  override readonly name = 'ServerStartError'
  readonly code = 'TESTKIT_SERVER_START'
  readonly server: string
  readonly logTail: string

  constructor(server: string, reason: string, logTail: string, options?: ErrorOptions) {
    super(`${server} did not start: ${reason}\n--- end of its log ---\n${logTail}`, options)
    this.server = server
    this.logTail = logTail
  }
}
