import { writeFile, chmod, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  describeWith,
  type FtpServer,
  startProftpd,
  startRclone,
  startSftp,
  startVsftpd,
  startWebdav,
} from '@common-handlers/testkit'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { runClient } from '../src/provision/package-clients.ts'
import { cleanEnd, endOf } from './end-of-server.ts'

let scratch: string
const at = (name: string): string => join(scratch, name)

beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'testkit-files-'))
  await writeFile(at('one'), 'content')
})

afterAll(() => rm(scratch, { recursive: true }))

describeWith([], 'SFTP', async () => {
  const [openssh, rclone] = [await startSftp(), await startRclone('sftp')]
  afterAll(() => Promise.all([openssh.stop(), rclone.stop()]))

  const putAndGet = async (
    server: { readonly port: number; readonly user: string; readonly hostKey: string | undefined; readonly folder: string },
    options: readonly string[],
    env: Record<string, string> = {},
  ): Promise<string> => {
    await writeFile(at('known_hosts'), `[127.0.0.1]:${server.port} ${server.hostKey ?? ''}\n`)
    await writeFile(at('batch'), `put ${at('one')} uploaded\nget uploaded ${at('fetched')}\n`)
    const checked = ['-o', 'StrictHostKeyChecking=yes', '-o', `UserKnownHostsFile=${at('known_hosts')}`]
    const login = [...checked, ...options, '-P', String(server.port), `${server.user}@127.0.0.1`]
    await runClient('sftp', ['-o', 'BatchMode=no', '-b', at('batch'), ...login], { env })
    return await readFile(at('fetched'), 'utf8')
  }

  it('by key on OpenSSH, whose key is the known one', async () => {
    await writeFile(at('key'), openssh.privateKey, { mode: 0o600 })
    expect(await putAndGet(openssh, ['-i', at('key')])).toBe('content')
    expect(await readFile(join(openssh.folder, 'uploaded'), 'utf8')).toBe('content')
    await expect(putAndGet({ ...openssh, hostKey: rclone.hostKey }, ['-i', at('key')])).rejects.toThrow('verification failed')
  })

  it('by password on rclone', async () => {
    await writeFile(at('ask'), '#!/bin/sh\necho "$ANSWER"\n')
    await chmod(at('ask'), 0o755)
    const asking = { SSH_ASKPASS: at('ask'), SSH_ASKPASS_REQUIRE: 'force' }
    const options = ['-o', 'PubkeyAuthentication=no', '-o', 'NumberOfPasswordPrompts=1']
    expect(await putAndGet(rclone, options, { ...asking, ANSWER: rclone.password })).toBe('content')
    await expect(putAndGet(rclone, options, { ...asking, ANSWER: 'wrong' })).rejects.toThrow('Permission denied')
  })

  it('ends', async () => {
    for (const server of [openssh, rclone]) expect(await endOf(server)).toEqual(cleanEnd)
  })
})

/** What Python's ftplib sees: the answer to a login, or the content of a file that it stored. */
async function storeAndRetrieve(server: FtpServer, client: string): Promise<string> {
  const program = `import ftplib, io, os, ssl
class Resuming(ftplib.FTP_TLS):
    "Its data connections go on with the session of the control connection."
    def ntransfercmd(self, command, rest=None):
        connection, size = ftplib.FTP.ntransfercmd(self, command, rest)
        return self.context.wrap_socket(connection, server_hostname=self.host, session=self.sock.session), size
class Implicit(ftplib.FTP_TLS):
    @property
    def sock(self): return self._sock
    @sock.setter
    def sock(self, value):
        plain = value is not None and not isinstance(value, ssl.SSLSocket)
        self._sock = self.context.wrap_socket(value, server_hostname='127.0.0.1') if plain else value
trust = ssl.create_default_context(cadata=os.environ['CA']) if os.environ['CA'] else None
ftp = ${client}
try:
    ftp.connect('127.0.0.1', int(os.environ['PORT']), timeout=20)
    ftp.login(os.environ['USER'], os.environ['PASSWORD'])
    if trust: ftp.prot_p()
    ftp.storbinary('STOR one', io.BytesIO(b'content'))
    got = io.BytesIO()
    ftp.retrbinary('RETR one', got.write)
    print(ftp.nlst(), got.getvalue().decode())
except Exception as problem: print(repr(problem))`
  const { port, user, password, caCert = '' } = server
  const output = await runClient('python3', ['-c', program], {
    env: { PORT: String(port), USER: user, PASSWORD: password, CA: caCert },
  })
  return output.trim()
}

describeWith([], 'FTP', async () => {
  const [offered, required, implicit, reusing, rclone] = await Promise.all([
    startProftpd({ tls: 'offered' }),
    startProftpd({ tls: 'required' }),
    startProftpd({ tls: 'implicit' }),
    startVsftpd({ tls: 'offered' }),
    startRclone('ftp'),
  ])
  const servers = [offered, required, implicit, reusing, rclone]
  afterAll(() => Promise.all(servers.map((server) => server.stop())))
  const stored = "['one'] content"

  it('without TLS on ProFTPD, vsftpd and rclone', async () => {
    const plain = servers.filter((server) => server !== required && server !== implicit)
    for (const server of plain) {
      expect(await storeAndRetrieve({ ...server, caCert: undefined }, 'ftplib.FTP()')).toBe(stored)
      expect(await readFile(join(server.folder, 'one'), 'utf8')).toBe('content')
    }
    expect(await storeAndRetrieve({ ...required, caCert: undefined }, 'ftplib.FTP()')).toContain('550 SSL/TLS required')
    expect(await storeAndRetrieve({ ...offered, password: 'wrong', caCert: undefined }, 'ftplib.FTP()')).toContain('530')
  })

  it('with TLS asked for, required, from the first byte, and with the session resumed', async () => {
    for (const server of [offered, required]) {
      expect(await storeAndRetrieve(server, 'ftplib.FTP_TLS(context=trust)')).toBe(stored)
    }
    expect(await storeAndRetrieve(implicit, 'Implicit(context=trust)')).toBe(stored)
    expect(await storeAndRetrieve(reusing, 'Resuming(context=trust)')).toBe(stored)
    expect(await storeAndRetrieve(reusing, 'ftplib.FTP_TLS(context=trust)')).toContain('522 SSL connection failed')
  })

  it('ends', async () => {
    for (const server of servers) expect(await endOf(server)).toEqual(cleanEnd)
  })
})

describeWith([], 'WebDAV', async () => {
  const [nginx, rclone, secured] = [await startWebdav(), await startRclone('webdav'), await startWebdav({ tls: true })]
  const servers = [nginx, rclone, secured]
  afterAll(() => Promise.all(servers.map((server) => server.stop())))

  it('keeps a file, lists it, and asks for a login, on nginx and rclone', async () => {
    for (const server of [nginx, rclone]) {
      const request = async (method: string, more: RequestInit = {}, password = server.password): Promise<string> => {
        const headers = { authorization: `Basic ${btoa(`${server.user}:${password}`)}`, depth: '1' }
        const response = await fetch(new URL('one', server.url), { method, headers, ...more })
        return `${response.status} ${await response.text()}`
      }
      expect(await request('PUT', { body: 'content' })).toMatch(/^201/)
      expect(await request('GET')).toBe('200 content')
      expect(await request('PROPFIND')).toMatch(/^207 .*<D:getcontentlength>7</s)
      expect(await request('GET', {}, 'wrong')).toMatch(/^401/)
      expect(await readFile(join(server.folder, 'one'), 'utf8')).toBe('content')
    }
  })

  it('by HTTPS', async () => {
    const program = `import os, ssl, urllib.request
print(urllib.request.urlopen(os.environ['URL'], context=ssl.create_default_context(cadata=os.environ['CA'])).status)`
    const asked = runClient('python3', ['-c', program], { env: { URL: secured.url, CA: secured.caCert } })
    await expect(asked).rejects.toThrow('HTTP Error 401')
  })

  it('ends', async () => {
    for (const server of servers) expect(await endOf(server)).toEqual(cleanEnd)
  })
})
