import type { CheckAttempt } from '@common-handlers/core'
import type { HttpConfig } from '../config.ts'
import { networkSteps } from '../network-check.ts'

/** The steps of a test before the first request, of whom the requests go to: the proxy where there is one; of one in the environment it is not known which. */
export function reachSteps(
  { baseUrl, proxyUrl, ca }: Pick<HttpConfig, 'baseUrl' | 'proxyUrl' | 'ca'>,
  signal: AbortSignal,
): CheckAttempt[] {
  if (proxyUrl === 'environment') return []
  const { hostname: host, port, protocol } = new URL(proxyUrl ?? baseUrl)
  const isSecure = protocol === 'https:'
  return networkSteps({
    host,
    port: port === '' ? (isSecure ? 443 : 80) : Number(port),
    ...(isSecure ? { tls: { ca } } : {}),
    signal,
  })
}
