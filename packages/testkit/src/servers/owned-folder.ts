import { chown, mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { serverCertificate, type ServerCertificate } from './certificates.ts'
import { type Account, unprivilegedAccount } from './postgres.ts'
import { inTemporaryFolder } from './server-process.ts'

/** A temp folder of the account that a server runs as. */
export interface OwnedFolder {
  readonly folder: string
  /** An empty folder in it, for what the server serves. */
  readonly data: string
  /** Undefined: the server runs as this process does. */
  readonly account: Account | undefined
  readonly certificate: ServerCertificate | undefined
}

/** As {@link inTemporaryFolder}, for a server that does not run as root even if the tests do. */
export async function inOwnedFolder<T>(
  name: string,
  options: { readonly tls?: unknown },
  work: (owned: OwnedFolder) => Promise<T>,
): Promise<T> {
  return await inTemporaryFolder(name, async (folder) => {
    const data = join(folder, 'data')
    await mkdir(data)
    const certificate = options.tls === undefined ? undefined : await serverCertificate(folder)
    const account = await unprivilegedAccount()
    if (account !== undefined) {
      const files = (await readdir(folder)).map((file) => join(folder, file))
      for (const place of [folder, ...files]) await chown(place, account.uid, account.gid)
    }
    return await work({ folder, data, account, certificate })
  })
}
