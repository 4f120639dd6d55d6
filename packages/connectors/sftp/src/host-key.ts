import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import { isIP } from 'node:net'

/** A public key as the server sends it (RFC 4253 section 6.6): its type comes first. */
export const keyType = (key: Buffer): string => key.subarray(4, 4 + key.readUInt32BE(0)).toString('latin1')

/** As `ssh-keygen -l` shows it. */
export const fingerprintOf = (key: Buffer): string =>
  `SHA256:${createHash('sha256').update(key).digest('base64').replace(/=+$/, '')}`

/** Type and key, as in known_hosts. */
export const shownKey = (key: Buffer): string => `${keyType(key)} ${key.toString('base64')}`

/** What is known of one server. */
export class KnownKeys {
  readonly #fingerprints: ReadonlySet<string>
  readonly #keys: readonly Buffer[]
  readonly #revoked: readonly Buffer[]

  private constructor(fingerprints: ReadonlySet<string>, keys: readonly Buffer[], revoked: readonly Buffer[]) {
    this.#fingerprints = fingerprints
    this.#keys = keys
    this.#revoked = revoked
  }

  /** From `hostKeys`, and the lines of known_hosts that are for this server. */
  static of(hostKeys: readonly string[], knownHosts: string, host: string, port: number): KnownKeys {
    const lines = knownHosts.split('\n').flatMap((line) => parseLine(line, host, port))
    const isFingerprint = (text: string): boolean => text.startsWith('SHA256:')
    const given = hostKeys.filter((text) => !isFingerprint(text)).map((text) => Buffer.from(text.split(' ')[1] ?? '', 'base64'))
    return new KnownKeys(
      new Set(hostKeys.filter(isFingerprint).map((text) => text.replace(/=+$/, ''))),
      [...given, ...lines.filter(({ revoked }) => !revoked).map(({ key }) => key)],
      lines.filter(({ revoked }) => revoked).map(({ key }) => key),
    )
  }

  get isEmpty(): boolean {
    return this.#fingerprints.size === 0 && this.#keys.length === 0
  }

  has(key: Buffer): boolean {
    const isRevoked = this.#revoked.some((one) => one.equals(key))
    return !isRevoked && (this.#fingerprints.has(fingerprintOf(key)) || this.#keys.some((one) => one.equals(key)))
  }

  /** Of the algorithms of host keys those first whose keys are known: a server has one for each and shows the first asked for. */
  preferred(algorithms: readonly string[]): string[] {
    const types = new Set(this.#keys.map(keyType))
    const isKnown = (algorithm: string): boolean => types.has(algorithm.startsWith('rsa-') ? 'ssh-rsa' : algorithm)
    return [...algorithms.filter(isKnown), ...algorithms.filter((algorithm) => !isKnown(algorithm))]
  }
}

interface Line {
  readonly key: Buffer
  readonly revoked: boolean
}

/** A line of known_hosts for this server (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"); authorities are not known here. */
function parseLine(line: string, host: string, port: number): Line[] {
  const words = line.trim().split(/\s+/)
  const marker = words[0]?.startsWith('@') === true ? words.shift() : undefined
  const [hosts = '', , key = ''] = words
  if (hosts === '' || hosts.startsWith('#') || key === '' || (marker !== undefined && marker !== '@revoked')) return []
  return isFor(hosts, host, port) ? [{ key: Buffer.from(key, 'base64'), revoked: marker !== undefined }] : []
}

function isFor(hosts: string, host: string, port: number): boolean {
  const name = host.toLowerCase()
  const wanted = port === 22 ? name : `[${name}]:${port}`
  const [, salt, hash] = /^\|1\|([^|]+)\|(.+)$/.exec(hosts) ?? []
  if (salt !== undefined && hash !== undefined) {
    const [mac, expected] = [createHmac('sha1', Buffer.from(salt, 'base64')).update(wanted).digest(), Buffer.from(hash, 'base64')]
    return mac.length === expected.length && timingSafeEqual(mac, expected)
  }
  const patterns = hosts.toLowerCase().split(',')
  const matches = (pattern: string): boolean => {
    const source = pattern.replace(/[^a-z0-9]/g, (letter) => ({ '*': '.*', '?': '.' })[letter] ?? `\\${letter}`)
    return new RegExp(`^${source}$`).test(wanted)
  }
  if (patterns.some((pattern) => pattern.startsWith('!') && matches(pattern.slice(1)))) return false
  return patterns.some((pattern) => (isIP(pattern) === 0 ? matches(pattern) : pattern === wanted))
}
