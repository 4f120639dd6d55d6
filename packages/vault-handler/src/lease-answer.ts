import { ConfigError, registerSecretValue } from '@common-handlers/core'
import { type SecretData, strings } from './secret-data.ts'

/**
 * - `dynamic`: made for this reader, and ends with its lease;
 * - `static`: an account that stays and whose password the server changes from time to time;
 * - `dated`: without a lease, and with an end of its own, such as a certificate.
 */
type GrantKind = 'dynamic' | 'static' | 'dated'

/** What one answer gives, and for how long. */
export interface Grant {
  readonly kind: GrantKind
  readonly data: SecretData
  /** Of a dynamic one; else empty. */
  readonly leaseId: string
  readonly renewable: boolean
  readonly ttlMs: number
}

/** The answer to a request that makes or extends a lease. */
export interface LeaseAnswer {
  readonly lease_id?: string
  readonly renewable?: boolean
  /** Seconds, rounded down. */
  readonly lease_duration?: number
  readonly data?: SecretData | null
}

/**
 * Reads an answer. Every text in it is registered with the scrubber, but for certificates and the name of the user, which is
 * what the logs of the other server tell about.
 * @throws ConfigError `VAULT_LEASE_MISSING`
 */
export function readGrant(path: string, answer: LeaseAnswer | undefined, now: number): Grant {
  const data = answer?.data ?? {}
  const grant = classify(data, answer, now)
  if (grant === undefined) {
    throw new ConfigError(`${path} gave no lease and nothing that says when it ends; read it with getSecret or request`, {
      code: 'VAULT_LEASE_MISSING',
      context: { path },
    })
  }
  const { username: _open, ...closed } = data
  for (const text of strings(closed)) if (!text.startsWith('-----BEGIN CERTIFICATE-----')) registerSecretValue(text)
  return grant
}

function classify(data: SecretData, answer: LeaseAnswer | undefined, now: number): Grant | undefined {
  const { lease_id: leaseId = '', renewable = false, lease_duration: seconds = 0 } = answer ?? {}
  if (leaseId !== '') return { kind: 'dynamic', data, leaseId, renewable, ttlMs: seconds * 1000 }
  const { ttl, last_vault_rotation: rotatedAt, expiration } = data
  if (typeof ttl === 'number' && typeof rotatedAt === 'string') {
    return { kind: 'static', data, leaseId, renewable: false, ttlMs: ttl * 1000 }
  }
  if (typeof expiration === 'number') {
    return { kind: 'dated', data, leaseId, renewable: false, ttlMs: Math.max(0, expiration * 1000 - now) }
  }
  return undefined
}
