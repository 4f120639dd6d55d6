import { lookup } from 'node:dns/promises'
import { connect as connectTcp, isIP, type Socket } from 'node:net'
import { type ConnectionOptions, connect as connectTls, type PeerCertificate, type TLSSocket } from 'node:tls'
import { type CheckAttempt, untilAborted } from '@common-handlers/core'
import { nameNotFound, type NetworkPlace, portNotReached, serverSilent, toHandshakeError, untrusted } from './network-errors.ts'

/** What a connection's TLS is like; the handshake of the test is that of the driver without its login. */
export interface NetworkTls {
  /** PEM of the certificates to trust instead of those that Node knows. */
  readonly ca?: string | undefined
  /** The name asked for and looked for in the certificate. Default: the host. */
  readonly servername?: string | undefined
  /** PEM of the client's certificate and key. */
  readonly cert?: string | undefined
  readonly key?: string | undefined
  readonly passphrase?: string | undefined
  /** `full` (the default): who signed the certificate, its days and its name; `ca`: not its name; `none`: nothing is checked. */
  readonly verify?: 'full' | 'ca' | 'none' | undefined
  /** What the protocol says in clear before the handshake: the SSLRequest of PostgreSQL, the AUTH TLS of FTP. It may throw errors of its own. */
  readonly startTls?: ((socket: Socket, signal: AbortSignal) => Promise<void>) | undefined
}

/** A server, and how it is reached. */
export interface NetworkTarget {
  /** A name or an address; IPv6 with or without brackets. */
  readonly host: string
  readonly port: number
  /** Absent: no TLS. */
  readonly tls?: NetworkTls | undefined
  readonly signal: AbortSignal
  /** Limit of each step in milliseconds. Default 10 000. */
  readonly timeoutMs?: number | undefined
}

const DEFAULT_TIMEOUT_MS = 10_000
const SILENT_MS = 500

/**
 * The steps of a test before anybody logs in: find the host, reach the port and, with `tls`, shake hands and look at the
 * certificate. Each fails with a code of its own and says what to do. Every step opens and closes a connection of its own.
 * @throws ConnectionError `CONNECTIONS_NAME_UNKNOWN`, `CONNECTIONS_PORT_REFUSED`, `CONNECTIONS_HOST_UNREACHABLE`,
 * `CONNECTIONS_TLS_NOT_SPOKEN`, `CONNECTIONS_TLS_REFUSED`, `CONNECTIONS_CERTIFICATE_UNTRUSTED`,
 * `CONNECTIONS_CERTIFICATE_EXPIRED`, `CONNECTIONS_CERTIFICATE_NOT_YET_VALID`, `CONNECTIONS_CERTIFICATE_NAME`;
 * OperationTimeoutError `CONNECTIONS_SERVER_SILENT`
 */
export function networkSteps(target: NetworkTarget): CheckAttempt[] {
  const { port, tls, signal, timeoutMs = DEFAULT_TIMEOUT_MS } = target
  const host = target.host.replace(/^\[|\]$/g, '')
  const place = { host, port }
  return [
    { name: `find ${host}`, run: () => find(place, signal, timeoutMs) },
    { name: `reach port ${port}`, run: () => reach(place, signal, timeoutMs) },
    ...(tls === undefined ? [] : [{ name: 'trust the certificate', run: () => trust(place, tls, signal, timeoutMs) }]),
  ]
}

async function find(place: NetworkPlace, signal: AbortSignal, timeoutMs: number): Promise<string> {
  const limit = AbortSignal.timeout(timeoutMs)
  try {
    const found = await untilAborted(lookup(place.host, { all: true }), AbortSignal.any([signal, limit]))
    return found.map(({ address }) => address).join(', ')
  } catch (error) {
    signal.throwIfAborted()
    throw limit.aborted ? serverSilent(place, 'the name server does not answer', timeoutMs) : nameNotFound(place, error)
  }
}

async function reach(place: NetworkPlace, signal: AbortSignal, timeoutMs: number): Promise<undefined> {
  const socket = await dial(place, signal, timeoutMs)
  socket.destroy()
}

async function dial(place: NetworkPlace, signal: AbortSignal, timeoutMs: number): Promise<Socket> {
  signal.throwIfAborted()
  const socket = connectTcp({ host: place.host, port: place.port })
  try {
    await happened(socket, 'connect', signal, timeoutMs, () =>
      serverSilent(place, 'nothing answers: a firewall that drops packets, or a wrong address', timeoutMs),
    )
    return socket
  } catch (error) {
    socket.destroy()
    signal.throwIfAborted()
    throw portNotReached(place, error)
  }
}

async function trust(place: NetworkPlace, tls: NetworkTls, signal: AbortSignal, timeoutMs: number): Promise<string> {
  const { startTls, verify = 'full', servername = place.host, ...pair } = tls
  const socket = await dial(place, signal, timeoutMs)
  try {
    const late = (): Error => serverSilent(place, 'the handshake of TLS gets no answer: the port may not speak TLS', timeoutMs)
    if (startTls !== undefined) await inTime(startTls, socket, signal, timeoutMs, late)
    const secure = connectTls({
      ...given(pair),
      socket,
      // An address is no name to ask for (RFC 6066 section 3).
      ...(isIP(servername) === 0 ? { servername } : {}),
      host: servername,
      ...(verify === 'full' ? {} : { checkServerIdentity: () => undefined }),
      // Nothing is sent over it: the certificate is looked at even when it is not trusted, to say why.
      rejectUnauthorized: false,
    })
    await happened(secure, 'secureConnect', signal, timeoutMs, late)
    const certificate = secure.getPeerCertificate()
    if (!secure.authorized && verify !== 'none') {
      throw untrusted(place, String(secure.authorizationError), {
        ...described(certificate),
        servername,
        hasCa: pair.ca !== undefined,
      })
    }
    const found = handshake(secure, certificate, verify)
    if (secure.getProtocol() === 'TLSv1.3') await accepted(secure, signal)
    return found
  } catch (error) {
    signal.throwIfAborted()
    throw toHandshakeError(place, error)
  } finally {
    socket.destroy()
  }
}

/** A server says after the handshake of TLS 1.3 that it wants a certificate of the client (RFC 8446 section 4.4.2.4), before anything else. */
async function accepted(socket: TLSSocket, signal: AbortSignal): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  for (const event of ['data', 'end', 'close']) socket.once(event, () => resolve())
  socket.once('error', (error: NodeJS.ErrnoException) => (/ALERT/.test(error.code ?? '') ? reject(error) : resolve()))
  // Most answer an end with theirs; of one that says nothing nothing more can be known.
  socket.end()
  const timer = setTimeout(resolve, SILENT_MS)
  try {
    await untilAborted(promise, signal)
  } finally {
    clearTimeout(timer)
  }
}

/** Without the keys that are undefined. */
const given = ({ ca, cert, key, passphrase }: NetworkTls): ConnectionOptions =>
  Object.fromEntries(Object.entries({ ca, cert, key, passphrase }).filter(([, value]) => value !== undefined))

function handshake(socket: TLSSocket, certificate: PeerCertificate, verify: string): string {
  const { subject, issuer, validTo } = described(certificate)
  const days = Math.floor((validTo.getTime() - Date.now()) / 86_400_000)
  const left = `${days} ${days === 1 ? 'day' : 'days'} left`
  const unchecked = { full: [], ca: ['its name is not checked'], none: ['not checked'] }[verify] ?? []
  return [socket.getProtocol() ?? 'TLS', `${subject} signed by ${issuer}`, left, ...unchecked].join(', ')
}

const described = (certificate: PeerCertificate): { subject: string; issuer: string; validFrom: Date; validTo: Date } => ({
  subject: distinguished(certificate.subject),
  issuer: distinguished(certificate.issuer),
  validFrom: new Date(certificate.valid_from),
  validTo: new Date(certificate.valid_to),
})

const distinguished = (name: Readonly<Record<string, string | string[] | undefined>> | undefined): string =>
  Object.entries(name ?? {})
    .map(([key, value]) => `${key}=${[value].flat().join('+')}`)
    .join(', ') || 'nobody'

/** Waits for an event of a socket: an error, its end, the signal and the limit end the wait. */
async function happened(
  socket: Socket,
  event: 'connect' | 'secureConnect',
  signal: AbortSignal,
  timeoutMs: number,
  late: () => Error,
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  socket.once(event, resolve)
  socket.once('close', () => reject(Object.assign(new Error('the server closed the connection'), { code: 'ECONNRESET' })))
  // It stays: a socket may fail after what was waited for.
  socket.on('error', reject)
  const timer = setTimeout(() => reject(late()), timeoutMs)
  try {
    await untilAborted(promise, signal)
  } finally {
    clearTimeout(timer)
  }
}

async function inTime(
  startTls: (socket: Socket, signal: AbortSignal) => Promise<void>,
  socket: Socket,
  signal: AbortSignal,
  timeoutMs: number,
  late: () => Error,
): Promise<void> {
  const limit = AbortSignal.timeout(timeoutMs)
  const both = AbortSignal.any([signal, limit])
  try {
    await untilAborted(startTls(socket, both), both)
  } catch (error) {
    throw limit.aborted ? late() : error
  }
}
