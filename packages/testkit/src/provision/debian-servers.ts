import { access, cp, mkdir, readdir, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { installedProgram, obtain } from './artifacts.ts'
import type { Artifact } from './cache.ts'
import { installDebianPackage, ProvisionError, unpackDebianPackage } from './package-clients.ts'
import { readEnvironment } from '../config.ts'

/** RabbitMQ's start script. The one on the PATH changes to another user first. */
export function rabbitmqScript(): Promise<string> {
  return withFile('/usr/lib/rabbitmq/bin/rabbitmq-server', 'rabbitmq-server')
}

/** OpenSSH's server. */
export function sshdBinary(): Promise<string> {
  return installedProgram('sshd', ['/usr/sbin'], 'openssh-server')
}

/** What makes SSH's keys. */
export function sshKeygenBinary(): Promise<string> {
  return installedProgram('ssh-keygen', [], 'openssh-client')
}

/** ProFTPD with its module for TLS. */
export async function proftpdBinary(): Promise<string> {
  await withFile('/usr/lib/proftpd/mod_tls.so', 'proftpd-core', 'proftpd-mod-crypto')
  return await installedProgram('proftpd', ['/usr/sbin'], 'proftpd-core')
}

/** nginx, and its module for the whole of WebDAV. */
export async function nginxWithDav(): Promise<{ readonly command: string; readonly davModule: string }> {
  const davModule = await withFile('/usr/lib/nginx/modules/ngx_http_dav_ext_module.so', 'nginx', 'libnginx-mod-http-dav-ext')
  return { command: await installedProgram('nginx', ['/usr/sbin'], 'nginx'), davModule }
}

/** vsftpd. It is unpacked and not installed: Debian has one FTP server on a machine, and that is ProFTPD here. */
export const vsftpd: Artifact = {
  name: 'vsftpd',
  // What Debian 12 has; its own revisions change under this name.
  version: '3.0.3',
  async fetch(into, scratch) {
    const tree = join(scratch, 'tree')
    for (const name of ['vsftpd', 'libwrap0', 'libnsl2', 'libtirpc3']) {
      const download = join(scratch, name)
      await mkdir(download)
      await unpackDebianPackage(name, tree, download)
    }
    await rename(join(tree, 'usr/sbin/vsftpd'), join(into, 'vsftpd'))
    for (const parent of [join(tree, 'lib'), join(tree, 'usr/lib')]) {
      const names = (await readdir(parent)).filter((name) => name.endsWith('-linux-gnu'))
      for (const name of names) await cp(join(parent, name), join(into, 'lib'), { recursive: true, verbatimSymlinks: true })
    }
  },
}

/** The folder with the program `vsftpd`, and its libraries in `lib`. */
export function vsftpdFolder(): Promise<string> {
  return obtain(vsftpd)
}

/** A file of this machine, else from the Debian packages that bring it. */
async function withFile(file: string, ...packages: string[]): Promise<string> {
  const exists = (): Promise<boolean> =>
    access(file).then(
      () => true,
      () => false,
    )
  if (await exists()) return file
  if (!readEnvironment().fetch) throw new ProvisionError(`${file} is not on this machine and COMMON_HANDLERS_FETCH is off`)
  await installDebianPackage(...packages)
  if (await exists()) return file
  throw new ProvisionError(`Debian's ${packages.join(' and ')} hold no file ${file}`)
}
