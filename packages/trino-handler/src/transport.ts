import type { BlockBytes, Blocks } from './body-bytes.ts'

/** One exchange of the statement protocol. */
export interface TransportRequest {
  readonly method: 'GET' | 'POST' | 'DELETE' | 'HEAD'
  /** An address of the server, or a path on it. */
  readonly uri: string
  readonly signal?: AbortSignal | undefined
  readonly headers?: Readonly<Record<string, string>> | undefined
  readonly body?: string | undefined
  /** Statuses that are an answer and not an error. */
  readonly expected: readonly number[]
}

export interface TransportReply {
  readonly status: number
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  /** The body as it came; or what it said, where somebody else has parsed it. */
  readonly body: Buffer | object
}

/**
 * The way to the server. No retry and no redirect: errors are handler errors that say what may be repeated. There are
 * two: HTTP, and a `trino-client` that somebody has configured.
 */
export interface TrinoTransport {
  /** Scheme, host and port: for messages. */
  readonly target: string
  send(request: TransportRequest): Promise<TransportReply>
  /** A segment of a spooled result, which may lie on another host. Without it results are direct. */
  download?(segment: SegmentAddress, signal: AbortSignal, memory: Blocks): Promise<BlockBytes>
  /** Cancels statements while the process exits and nothing asynchronous runs any more. */
  cancelAtExit?(uris: readonly string[]): void
  close(): Promise<void>
}

export interface SegmentAddress {
  readonly uri: string
  readonly headers: Readonly<Record<string, string>>
}

/** The body as text: for messages and for JSON without rows. */
export function textOf({ body }: TransportReply): string {
  return Buffer.isBuffer(body) ? body.toString() : JSON.stringify(body)
}
