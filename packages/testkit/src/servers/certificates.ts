import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { runClient } from '../provision/package-clients.ts'

/** Keys and certificates of a server, signed by an authority of its own. */
export interface ServerCertificate {
  /** PEM of the authority that signed the server's certificate, and of no other. */
  readonly caCert: string
  readonly caFile: string
  readonly keyFile: string
  readonly certificateFile: string
  /** Key and certificate in one file. */
  readonly bothFile: string
  /** Makes another pair under that authority; the files are `<name>.key` and `<name>.pem` beside the others. */
  sign(name: string, subject: string, ...more: string[]): Promise<{ readonly key: string; readonly certificate: string }>
}

/** Makes an authority, and a certificate for 127.0.0.1 and localhost, in an existing folder. */
export async function serverCertificate(folder: string): Promise<ServerCertificate> {
  const at = (name: string): string => join(folder, name)
  const make = async (name: string, subject: string, ...more: string[]): Promise<{ key: string; certificate: string }> => {
    await runClient('openssl', [
      ...'req -x509 -newkey rsa:2048 -nodes -days 2'.split(' '),
      '-subj',
      `/CN=${subject}`,
      '-keyout',
      at(`${name}.key`),
      '-out',
      at(`${name}.pem`),
      ...more,
    ])
    return { key: await readFile(at(`${name}.key`), 'utf8'), certificate: await readFile(at(`${name}.pem`), 'utf8') }
  }
  const authority = ['-CA', at('ca.pem'), '-CAkey', at('ca.key'), '-addext', 'basicConstraints=critical,CA:FALSE']
  const ca = await make('ca', 'testkit authority')
  const server = await make('server', 'localhost', ...authority, '-addext', 'subjectAltName=IP:127.0.0.1,DNS:localhost')
  await writeFile(at('both.pem'), `${server.key}\n${server.certificate}`, { mode: 0o600 })
  return {
    caCert: ca.certificate,
    caFile: at('ca.pem'),
    keyFile: at('server.key'),
    certificateFile: at('server.pem'),
    bothFile: at('both.pem'),
    sign: (name, subject, ...more) => make(name, subject, ...authority, ...more),
  }
}
