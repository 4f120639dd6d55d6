import { ConnectionError, HandlerError, OperationTimeoutError } from '@common-handlers/core'

/** A server as the network knows it. */
export interface NetworkPlace {
  readonly host: string
  readonly port: number
}

const shown = ({ host, port }: NetworkPlace): string => `${host.includes(':') ? `[${host}]` : host}:${port}`
const codeOf = (error: unknown): string => {
  const { code } = error as { readonly code?: unknown }
  return typeof code === 'string' ? code : ''
}
const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

export const nameNotFound = ({ host }: NetworkPlace, cause: unknown): ConnectionError => {
  const isUnanswered = codeOf(cause) === 'EAI_AGAIN'
  return new ConnectionError(
    isUnanswered
      ? `the name server does not answer for "${host}": look at the network of this machine, or try again`
      : `no address is known for "${host}": look for a typing error in the host, or for the name server of this network`,
    { code: 'CONNECTIONS_NAME_UNKNOWN', retry: isUnanswered ? 'safe' : 'never', context: { host }, cause },
  )
}

/** Why no connection was made; what is ours already is given back. */
export function portNotReached(place: NetworkPlace, cause: unknown): HandlerError {
  if (HandlerError.is(cause)) return cause
  const failures = cause instanceof AggregateError ? (cause.errors as readonly unknown[]).map(codeOf) : [codeOf(cause)]
  const isRefused = failures.includes('ECONNREFUSED')
  return new ConnectionError(
    isRefused
      ? `nobody listens at ${shown(place)}: look at the port, and whether the server runs and listens on that address`
      : `${shown(place)} cannot be reached (${failures.join(', ') || messageOf(cause)}): look at the route, the VPN and the firewall`,
    {
      code: isRefused ? 'CONNECTIONS_PORT_REFUSED' : 'CONNECTIONS_HOST_UNREACHABLE',
      retry: 'safe',
      context: { ...place },
      cause,
    },
  )
}

export const serverSilent = (place: NetworkPlace, why: string, timeoutMs: number): OperationTimeoutError =>
  new OperationTimeoutError(`${shown(place)} in ${timeoutMs} ms: ${why}`, {
    code: 'CONNECTIONS_SERVER_SILENT',
    retry: 'safe',
    context: { ...place, timeoutMs },
  })

/** Why the handshake failed; what is ours already is given back. */
export function toHandshakeError(place: NetworkPlace, cause: unknown): HandlerError {
  if (HandlerError.is(cause)) return cause
  const code = codeOf(cause)
  const context = { ...place }
  if (/ALERT|UNSUPPORTED_PROTOCOL|NO_SHARED|NO_PROTOCOLS/.test(code)) {
    return new ConnectionError(
      `${shown(place)} refuses the handshake (${messageOf(cause)}): it may want another version of TLS, or a certificate of the client`,
      { code: 'CONNECTIONS_TLS_REFUSED', context, cause },
    )
  }
  if (/^ERR_(OSSL|SSL|TLS|CRYPTO)/.test(code) && !/WRONG_VERSION|PACKET_LENGTH|UNEXPECTED_MESSAGE|RECORD/.test(code)) {
    return new ConnectionError(`TLS to ${shown(place)} cannot be set up: ${messageOf(cause)}; look at ca, cert and key`, {
      code: 'CONNECTIONS_TLS_REFUSED',
      context,
      cause,
    })
  }
  return new ConnectionError(
    `${shown(place)} does not speak TLS (${messageOf(cause)}): use its TLS port, or switch TLS off if its network is safe`,
    { code: 'CONNECTIONS_TLS_NOT_SPOKEN', context, cause },
  )
}

interface Presented {
  readonly subject: string
  readonly issuer: string
  readonly validFrom: Date
  readonly validTo: Date
  readonly servername: string
  readonly hasCa: boolean
}

const day = (date: Date): string => date.toISOString().slice(0, 10)

/** Why a certificate is not trusted, by the name that OpenSSL or Node give the reason. */
export function untrusted(place: NetworkPlace, reason: string, certificate: Presented): ConnectionError {
  const { subject, issuer, validFrom, validTo, servername, hasCa } = certificate
  const [code, why] = ((): readonly [string, string] => {
    switch (reason) {
      case 'CERT_HAS_EXPIRED':
        return [
          'EXPIRED',
          `the certificate of ${subject}, or one that signed it, has expired (its own: ${day(validTo)}): renew it on the server`,
        ]
      case 'CERT_NOT_YET_VALID':
        return [
          'NOT_YET_VALID',
          `the certificate of ${subject}, or one that signed it, is not valid yet (its own: from ${day(validFrom)}): look at the clock`,
        ]
      case 'ERR_TLS_CERT_ALTNAME_INVALID':
        return [
          'NAME',
          `the certificate of ${subject} is not for "${servername}": connect by a name that stands in it, or set servername`,
        ]
      default:
        return [
          'UNTRUSTED',
          `${
            subject === issuer
              ? `the certificate of ${subject} is signed by itself`
              : `the certificate of ${subject} is signed by ${issuer}, whom ${hasCa ? 'the ca does not' : 'nobody here does'} vouch for`
          } (${reason}): give ${subject === issuer ? 'it' : 'the certificate that signed it'} as ca`,
        ]
    }
  })()
  return new ConnectionError(`${shown(place)}: ${why}`, {
    code: `CONNECTIONS_CERTIFICATE_${code}`,
    context: { ...place, subject, issuer, validTo: validTo.toISOString(), reason },
  })
}
