import { randomUUID } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ServerUnavailable } from '../errors.ts'
import { nginxWithDav } from '../provision/debian-servers.ts'
import { onFreePorts } from './ports.ts'
import { inOwnedFolder } from './owned-folder.ts'
import { launch, type ServerControl } from './server-process.ts'

export interface WebdavOptions {
  /** By HTTPS, and by that alone. */
  readonly tls?: true
}

/** Where clients connect. */
export type WebdavServer = ServerControl & {
  /** Of its root collection, without the account; ends with a slash. */
  readonly url: string
  readonly user: string
  readonly password: string
  /** What it serves. */
  readonly folder: string
  /** PEM of the authority behind its certificate; undefined without TLS. */
  readonly caCert: string | undefined
}

/**
 * Starts nginx on loopback as a WebDAV server with locks, behind basic authentication.
 * @throws ServerUnavailable if it is not there and cannot be installed, ServerStartError if it does not start
 */
export async function startWebdav(options: WebdavOptions = {}): Promise<WebdavServer> {
  const { command, davModule } = await nginxWithDav().catch((error: Error) => {
    throw new ServerUnavailable('webdav', error.message, { cause: error })
  })
  return await inOwnedFolder('webdav', options, async ({ folder, data, account, certificate }) => {
    const [user, password] = ['test', randomUUID()]
    await writeFile(join(folder, 'users'), `${user}:{PLAIN}${password}\n`)
    return await onFreePorts(2, async ([port = 0, plainPort = 0]) => {
      const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
      const listens =
        certificate === undefined
          ? `listen 127.0.0.1:${port};`
          : `listen 127.0.0.1:${port} ssl; ssl_certificate ${certificate.certificateFile}; ssl_certificate_key ${certificate.keyFile};`
      await writeFile(
        join(folder, 'nginx.conf'),
        `load_module ${davModule};
daemon off;
worker_processes 1;
pid ${folder}/pid;
error_log stderr;
events {}
http {
  access_log off;
  ${temporary.map((name) => `${name}_temp_path ${folder}/${name};`).join('\n  ')}
  dav_ext_lock_zone zone=locks:1m;
  server { listen 127.0.0.1:${plainPort}; return 204; }
  server {
    ${listens}
    root ${data};
    auth_basic test;
    auth_basic_user_file ${folder}/users;
    client_max_body_size 0;
    dav_methods PUT DELETE MKCOL COPY MOVE;
    dav_ext_methods PROPFIND OPTIONS LOCK UNLOCK;
    dav_ext_lock zone=locks;
    create_full_put_path on;
  }
}
`,
      )
      const control = await launch({
        name: 'webdav',
        folder,
        command,
        args: ['-p', folder, '-c', join(folder, 'nginx.conf'), '-e', 'stderr'],
        ...(account === undefined ? {} : { account }),
        stopSignal: 'SIGQUIT',
        startTimeoutMs: 20_000,
        async ready(signal) {
          await fetch(`http://127.0.0.1:${plainPort}`, { signal })
        },
      })
      const url = `${certificate === undefined ? 'http' : 'https'}://127.0.0.1:${port}/`
      return { url, user, password, folder: data, caCert: certificate?.caCert, ...control }
    })
  })
}
