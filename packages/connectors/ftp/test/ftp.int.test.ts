import { execFile } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { lutimes, mkdir, mkdtemp, open, readdir, readFile, rm, symlink, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { closeAllConnections, createConnections, type IngestedItem } from '@common-handlers/connections'
import { fetchFiles, type FilesQuery, type LeftFile, type RemoteFiles } from '@common-handlers/connections/files'
import { REDACTED, silentLogger } from '@common-handlers/core'
import { ftp, type FtpConfigInput, getFtpClient, testFtpConnection } from '@common-handlers/ftp'
import {
  describeWith,
  type FtpServer,
  type RcloneServer,
  startFaultProxy,
  startProftpd,
  startRclone,
  startVsftpd,
  readmeExample,
  liveMemory,
} from '@common-handlers/testkit'
import { afterAll, afterEach, describe, expect, it } from 'vitest'

const run = promisify(execFile)
const MIB = 1024 * 1024
/** Outside of the heap. */
const heldBytes = async (): Promise<number> => (await liveMemory()).arrayBuffers

describeWith([], 'ftp', async () => {
  const scratch = await mkdtemp(join(tmpdir(), 'ftp-'))
  const [proftpd, implicit, vsftpd, rclone] = await Promise.all([
    startProftpd({ tls: 'offered' }),
    startProftpd({ tls: 'implicit' }),
    startVsftpd(),
    startRclone('ftp'),
  ])
  afterEach(() => closeAllConnections())
  afterAll(async () => {
    await Promise.all([proftpd, implicit, vsftpd, rclone].map((server) => server.stop()))
    await rm(scratch, { recursive: true })
  })
  const at = (server: FtpServer | RcloneServer, more: Partial<FtpConfigInput> = {}): FtpConfigInput => {
    const { host, port, user: username, password } = server
    return { host, port, username, ...(password === '' ? {} : { password }), tls: 'none', ...more }
  }
  const fetch = async (config: FtpConfigInput, query: FilesQuery): Promise<readonly IngestedItem[]> => {
    await using connections = createConnections({ connectors: [ftp], variables: {} })
    await using connector = await connections.createConnector({ protocol: 'ftp', ...config })
    return (await connector.fetchData(query)).items
  }
  const plain = [
    ['ProFTPD', proftpd],
    ['vsftpd', vsftpd],
    ['rclone', rclone],
  ] as const

  describe('TLS', () => {
    it('is asked for, spoken from the first byte, and shown by the test', async () => {
      for (const config of [
        at(proftpd, { tls: 'explicit', ca: proftpd.caCert }),
        at(implicit, { tls: 'implicit', ca: implicit.caCert }),
      ]) {
        const { ok, steps } = await testFtpConnection(config)
        expect(ok, JSON.stringify(steps)).toBe(true)
        expect(steps.find(({ name }) => name === 'trust the certificate')?.detail).toMatch(/^TLSv1\.[23]/)
      }
    })

    it('is nothing for a certificate that nobody vouches for', async () => {
      for (const config of [at(proftpd, { tls: 'explicit' }), at(implicit, { tls: 'implicit' })]) {
        await expect(getFtpClient(config)).rejects.toMatchObject({ code: 'FTP_TLS_FAILED', retry: 'never' })
        const { steps } = await testFtpConnection(config)
        expect(steps.at(-1)?.error?.code).toBe('CONNECTIONS_CERTIFICATE_UNTRUSTED')
      }
    })

    it('is not left out in silence where the server has none', async () => {
      for (const server of [vsftpd, rclone]) {
        await expect(getFtpClient(at(server, { tls: 'explicit' }))).rejects.toMatchObject({ code: 'FTP_TLS_UNAVAILABLE' })
        expect((await testFtpConnection(at(server, { tls: 'explicit' }))).steps.at(-1)?.error?.code).toBe('FTP_TLS_UNAVAILABLE')
      }
    })
  })

  it.each(plain)('takes what is new from %s, exactly and once', async (name, server) => {
    const folder = join(server.folder, 'in')
    await mkdir(join(folder, 'deep er'), { recursive: true })
    const time = new Date('2025-03-04T05:06:07Z')
    const files = { 'ü ö.csv': 'one', ' leading.csv': 'two', 'deep er/a.csv': 'three', '-la.csv': 'four', 'empty.csv': '' }
    for (const [path, text] of Object.entries(files)) {
      await writeFile(join(folder, path), text)
      await utimes(join(folder, path), time, time)
    }
    await writeFile(join(folder, 'other.txt'), 'x')
    if (name !== 'rclone') {
      await symlink('ü ö.csv', join(folder, 'link.csv'))
      await lutimes(join(folder, 'link.csv'), new Date(), new Date())
      await symlink('.', join(folder, 'loop'))
      await symlink('nothing', join(folder, 'dangling.csv'))
    }
    const query = { path: 'in', pattern: '**/*.csv', modifiedSince: time, target: join(scratch, name) }
    const found = await fetch(at(server), { ...query, dryRun: true })
    const linked = name === 'rclone' ? [] : ['link.csv']
    expect(found.map(({ key }) => String(key)).toSorted()).toEqual(
      [...Object.keys(files), ...linked].map((path) => `in/${path}`).toSorted(),
    )
    expect(new Set(found.map(({ data }) => (data as { modifiedAt: string }).modifiedAt))).toEqual(new Set([time.toISOString()]))
    expect(await fetch(at(server), query)).toHaveLength(found.length)
    for (const [path, text] of Object.entries(files)) expect(await readFile(join(query.target, path), 'utf8')).toBe(text)
    expect(await fetch(at(server), query)).toEqual([])
    // rclone remembers a folder for minutes.
    if (name !== 'rclone') {
      await writeFile(join(folder, 'empty.csv'), 'grown')
      expect((await fetch(at(server), query)).map(({ bytes }) => bytes)).toEqual([5])
    }
    expect((await fetch(at(server), 'in/other.txt')).map(({ data }) => String(data))).toEqual(['x'])
  })

  it.each(plain)('says what is missing on %s', async (_name, server) => {
    await expect(fetch(at(server), 'missing')).rejects.toMatchObject({ code: 'FTP_NOT_FOUND' })
    await expect(fetch(at(server), 'missing/')).rejects.toMatchObject({ code: 'FTP_NOT_FOUND' })
    const client = await getFtpClient(at(server))
    await expect(client.read('missing').next()).rejects.toMatchObject({ code: 'FTP_NOT_FOUND' })
    await expect(client.list('missing')).rejects.toMatchObject({ code: 'FTP_NOT_FOUND' })
    await expect(client.stat('x\r\nDELE in')).rejects.toMatchObject({ code: 'FTP_PATH_INVALID' })
    // It is of use afterwards.
    expect(await client.stat('')).toMatchObject({ kind: 'folder' })
  })

  it.each(plain.slice(0, 2))('tells what may not be read from what is gone, on %s', async (_name, server) => {
    const path = join(server.folder, 'locked')
    await writeFile(path, 'x', { mode: 0o200 })
    const left: LeftFile[] = []
    const fetching = fetch(at(server), { path: 'locked', onLeft: (file) => left.push(file) })
    // The server runs as another account where the tests run as root.
    if (process.getuid?.() === 0) await expect(fetching).rejects.toMatchObject({ code: 'FTP_FORBIDDEN', outcome: 'permission' })
    else await expect(fetching).rejects.toThrow()
    expect(left).toEqual([])
  })

  it('works for several at once, no more than it may', async () => {
    await using proxy = await startFaultProxy(proftpd)
    await mkdir(join(proftpd.folder, 'several'), { recursive: true })
    for (let index = 0; index < 5; index++) await writeFile(join(proftpd.folder, 'several', `${index}`), `${index}`)
    const client = await getFtpClient(at(proftpd, { port: proxy.port, maxConnections: 2 }))
    const paths = Array.from({ length: 10 }, (_, index) => `several/${index % 5}`)
    const texts = await Promise.all(
      paths.map(async (path) => {
        const chunks = await Array.fromAsync(client.read(path))
        expect(proxy.connections).toBeLessThanOrEqual(2)
        return Buffer.concat(chunks).toString()
      }),
    )
    expect(texts).toEqual(paths.map((path) => path.at(-1)))
    const reads = [client.read('several/0'), client.read('several/1')]
    for (const read of reads) await read.next()
    await expect(client.stat('several/2', { timeoutMs: 200 })).rejects.toMatchObject({ code: 'FTP_TIMEOUT' })
    for (const read of reads) await read.return()
    expect(await client.stat('several/2')).toMatchObject({ size: 1 })
  })

  describe('a file of 100 MB', async () => {
    const block = randomBytes(MIB)
    const file = await open(join(proftpd.folder, 'large.bin'), 'w')
    const hash = createHash('sha256')
    for (let index = 0; index < 100; index++) {
      block.writeUInt32BE(index)
      hash.update(block)
      await file.write(block)
    }
    await file.close()
    const expected = { bytes: 100 * MIB, checksum: `sha256:${hash.digest('hex')}` }
    const context = { signal: new AbortController().signal, logger: silentLogger }

    it('goes to a folder in bounded memory, resumed where the line was cut', async () => {
      const client = await getFtpClient(at(proftpd, { tls: 'explicit', ca: proftpd.caCert }))
      const starts: number[] = []
      const before = await heldBytes()
      let [had, most] = [0, 0]
      const watched: RemoteFiles = {
        policy: client.policy,
        timeoutMs: client.timeoutMs,
        urlOf: (path) => client.urlOf(path),
        list: (path, options) => client.list(path, options),
        stat: (path, options) => client.stat(path, options),
        async *read(path, options) {
          starts.push(options?.start ?? 0)
          for await (const chunk of client.read(path, options)) {
            had += chunk.byteLength
            if (had > 20 * MIB) {
              had = 0
              most = Math.max(most, await heldBytes())
            }
            yield chunk
            if (starts.length === 1 && (options?.start ?? 0) === 0 && most > 0) {
              await proftpd.down()
              await proftpd.up()
            }
          }
        },
      }
      const target = join(scratch, 'large')
      const [item] = await Array.fromAsync(fetchFiles('ftp', watched, { path: 'large.bin', target }, context))
      expect(item).toMatchObject(expected)
      expect(starts).toHaveLength(2)
      expect(starts[1]).toBeGreaterThan(19 * MIB)
      const kept = createHash('sha256').update(await readFile(join(target, 'large.bin')))
      expect(`sha256:${kept.digest('hex')}`).toBe(expected.checksum)
      expect(most - before).toBeLessThan(32 * MIB)
    })

    it('ends with the signal, and leaves nothing behind', async () => {
      await using proxy = await startFaultProxy(proftpd)
      await using connections = createConnections({ connectors: [ftp], variables: {} })
      await using connector = await connections.createConnector({ protocol: 'ftp', ...at(proftpd, { port: proxy.port }) })
      await connector.connect()
      const target = join(scratch, 'none')
      const abort = new AbortController()
      const reason = new RangeError('changed my mind')
      const fetching = connector.fetchData({ path: 'large.bin', target }, { signal: abort.signal })
      const writing = async (): Promise<number> => (await readdir(join(target, '.storage/writing')).catch(() => [])).length
      await expect.poll(writing, { interval: 1 }).toBeGreaterThan(0)
      abort.abort(reason)
      await expect(fetching).rejects.toBe(reason)
      expect((await readdir(target, { recursive: true })).filter((name) => !name.startsWith('.storage'))).toEqual([])
      await expect.poll(() => proxy.connections).toBe(0)
      expect((await connector.fetchData({ path: 'large.bin', dryRun: true })).items).toHaveLength(1)
      await connections.closeAllConnections()
      await expect.poll(() => proxy.connections).toBe(0)
    })

    it('is not waited for where the line is dead', async () => {
      await using proxy = await startFaultProxy(proftpd)
      const client = await getFtpClient(at(proftpd, { port: proxy.port, timeoutMs: 1_500, attempts: 1 }))
      proxy.stall()
      await expect(client.stat('large.bin')).rejects.toMatchObject({ code: 'FTP_TIMEOUT' })
      proxy.resume()
      await expect.poll(async () => (await client.stat('large.bin').catch(() => undefined))?.size).toBe(100 * MIB)
    })
  })

  it('finds its way back after the server was gone', async () => {
    await writeFile(join(vsftpd.folder, 'one'), 'one')
    const client = await getFtpClient(at(vsftpd))
    await client.stat('one')
    await vsftpd.down()
    await expect(client.stat('one')).rejects.toMatchObject({ outcome: 'connection' })
    await vsftpd.up()
    expect(await client.stat('one')).toMatchObject({ kind: 'file', size: 3 })
  })

  it('is had by URL, too', async () => {
    const { host, port, user, password } = proftpd
    await using client = await getFtpClient(`ftp://${user}:${password}@${host}:${port}?tls=none`)
    expect(client.urlOf('/a b/c')).toBe(`ftp://${user}@${host}:${port}/%2Fa%20b/c`)
    expect(client.urlOf('c#')).toBe(`ftp://${user}@${host}:${port}/c%23`)
    await expect(getFtpClient('ftp://host/out')).rejects.toMatchObject({ code: 'FTP_URL_INVALID' })
  })

  it('the example of README.md', async () => {
    await mkdir(join(proftpd.folder, 'out'))
    await writeFile(join(proftpd.folder, 'out', 'a.csv'), 'a,b')
    const root = join(import.meta.dirname, '..')
    const code = await readmeExample(root)
    const target = join(scratch, 'readme')
    const args = ['--conditions=@common-handlers/source', '--input-type=module-typescript', '-e']
    const env = {
      FTP_HOST: proftpd.host,
      FTP_PORT: String(proftpd.port),
      FTP_USERNAME: proftpd.user,
      FTP_PASSWORD: proftpd.password,
      FTP_CA: proftpd.caCert ?? '',
    }
    const { stdout } = await run(process.execPath, [...args, code.replace('/data/in', target)], { cwd: root, env })
    expect(stdout).toBe(`out/a.csv 3 file://${target}/a.csv\n0 more the next time\n`)
  })

  it('has example files that its schema takes', async () => {
    const folder = join(import.meta.dirname, '../examples')
    const names = (await readdir(folder)).filter((name) => /\.(json|yaml)$/.test(name))
    expect(names).toHaveLength(2)
    await using connections = createConnections({ connectors: [ftp], variables: { FTP_PASSWORD: 'from the environment' } })
    for (const name of names) {
      const explained = await connections.explain('ftp', {}, { file: join(folder, name) })
      expect(explained.find(({ key }) => key === 'host')?.value).toBe('files.example.com')
      expect(explained.find(({ key }) => key === 'password')?.value).toBe(REDACTED)
    }
  })
})
