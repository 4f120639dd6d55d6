import { pbkdf2Sync, randomBytes, randomUUID } from 'node:crypto'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { runClient } from '../provision/package-clients.ts'
import { serverCertificate } from './certificates.ts'
import type { Properties } from './trino-settings.ts'

/** How to get in where Trino asks who it is; see `secure` of startTrino. */
export interface TrinoSecurity {
  /** `https://127.0.0.1:port` */
  readonly url: string
  /** PEM of the authority that signed the server's certificate, and of no other. */
  readonly caCert: string
  /** PEM key that signs the JWTs (RS256) this server accepts; the user is the claim `sub`. */
  readonly jwtKey: string
  /** PEM certificate of {@link certificateUser} and its key. */
  readonly clientCert: string
  readonly clientKey: string
  readonly certificateUser: string
  /** The users with passwords from now on, and no others; the server has read them when this resolves or soon after. */
  setPasswords(passwords: Readonly<Record<string, string>>): Promise<void>
}

export interface SecuritySettings {
  readonly security: TrinoSecurity
  /** For config.properties. */
  readonly config: Properties
  /** For etc/password-authenticator.properties. */
  readonly passwordAuthenticator: Properties
}

/** How often Trino looks at its file of passwords. */
const REFRESH = '200ms'
const certificateUser = 'certificate-user'

/** Keys, certificates and passwords in a folder, and the settings that name them. */
export async function securitySettings(folder: string, port: number): Promise<SecuritySettings> {
  await mkdir(folder, { recursive: true })
  const at = (name: string): string => join(folder, name)
  const { caCert, caFile, bothFile, sign } = await serverCertificate(folder)
  const client = await sign('client', certificateUser)
  await runClient('openssl', ['genpkey', '-algorithm', 'RSA', '-out', at('jwt.key')])
  await runClient('openssl', ['pkey', '-in', at('jwt.key'), '-pubout', '-out', at('jwt.pub')])
  const setPasswords = (passwords: Readonly<Record<string, string>>): Promise<void> =>
    writeFile(at('passwords'), Object.entries(passwords).map(passwordLine).join(''), { mode: 0o600 })
  await setPasswords({})
  return {
    security: {
      url: `https://127.0.0.1:${port}`,
      caCert,
      jwtKey: await readFile(at('jwt.key'), 'utf8'),
      clientCert: client.certificate,
      clientKey: client.key,
      certificateUser,
      setPasswords,
    },
    config: {
      'http-server.https.enabled': 'true',
      'http-server.https.port': String(port),
      'http-server.https.keystore.path': bothFile,
      'http-server.https.truststore.path': caFile,
      'http-server.authentication.type': 'CERTIFICATE,JWT,PASSWORD',
      'http-server.authentication.certificate.user-mapping.pattern': 'CN=(.*)',
      'http-server.authentication.jwt.key-file': at('jwt.pub'),
      // The launcher itself looks over plain HTTP whether the server works.
      'http-server.authentication.allow-insecure-over-http': 'true',
      'internal-communication.shared-secret': randomUUID(),
    },
    passwordAuthenticator: {
      'password-authenticator.name': 'file',
      'file.password-file': at('passwords'),
      'file.refresh-period': REFRESH,
    },
  }
}

/** A line of the file as Trino's file authenticator reads PBKDF2: iterations, salt and hash. */
function passwordLine([user, password]: [string, string]): string {
  const salt = randomBytes(16)
  const hash = pbkdf2Sync(password, salt, 10_000, 32, 'sha1')
  return `${user}:10000:${salt.toString('hex')}:${hash.toString('hex')}\n`
}
