import { execFile } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, open, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { closeAllConnections, createConnections, type IngestedItem } from '@common-handlers/connections'
import { fetchFiles, type FilesQuery, type RemoteFiles } from '@common-handlers/connections/files'
import { silentLogger } from '@common-handlers/core'
import { describeWith, startFaultProxy, startRclone, startWebdav, readmeExample, liveMemory } from '@common-handlers/testkit'
import {
  getWebdavClient,
  testWebdavConnection,
  webdav,
  type WebdavConfigInput,
  webdavConfigSchema,
} from '@common-handlers/webdav'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import { WebdavClient } from '../src/client.ts'

const run = promisify(execFile)
const MIB = 1024 * 1024
/** Outside of the heap. */
const heldBytes = async (): Promise<number> => (await liveMemory()).arrayBuffers

describeWith([], 'webdav', async () => {
  const scratch = await mkdtemp(join(tmpdir(), 'webdav-'))
  const [nginx, secured, rclone] = await Promise.all([startWebdav(), startWebdav({ tls: true }), startRclone('webdav')])
  const stubs: Server[] = []
  afterEach(() => closeAllConnections())
  afterAll(async () => {
    await Promise.all([nginx, secured, rclone].map((server) => server.stop()))
    for (const server of stubs) server.close()
    await rm(scratch, { recursive: true })
  })
  const at = ({ url: baseUrl, user: username, password }: typeof nginx | typeof rclone): WebdavConfigInput => ({
    baseUrl,
    username,
    password,
  })
  const fetch = async (config: WebdavConfigInput, query: FilesQuery): Promise<readonly IngestedItem[]> => {
    await using connections = createConnections({ connectors: [webdav], variables: {} })
    await using connector = await connections.createConnector({ protocol: 'webdav', ...config })
    return (await connector.fetchData(query)).items
  }
  const both = [
    ['nginx', nginx],
    ['rclone', rclone],
  ] as const

  it.each(both)('takes what is new from %s, exactly and once', async (name, server) => {
    const folder = join(server.folder, 'in')
    await mkdir(join(folder, 'deep er'), { recursive: true })
    const time = new Date('2025-03-04T05:06:07Z')
    const files = { 'ü ö.csv': 'one', 'a#b?c%20&<.csv': 'two', 'deep er/a.csv': 'three', 'empty.csv': '' }
    for (const [path, text] of Object.entries(files)) {
      await writeFile(join(folder, path), text)
      await utimes(join(folder, path), time, time)
    }
    await writeFile(join(folder, 'other.txt'), 'x')
    const query = { path: 'in', pattern: '**/*.csv', target: join(scratch, name) }
    const found = await fetch(at(server), { ...query, path: '/in/', dryRun: true })
    expect(found.map(({ data }) => data)).toMatchObject(
      ['/in/a#b?c%20&<.csv', '/in/deep er/a.csv', '/in/empty.csv', '/in/ü ö.csv'].map((path) => ({
        path,
        modifiedAt: time.toISOString(),
      })),
    )
    expect(await fetch(at(server), query)).toHaveLength(found.length)
    for (const [path, text] of Object.entries(files)) expect(await readFile(join(query.target, path), 'utf8')).toBe(text)
    expect(await fetch(at(server), query)).toEqual([])
    expect((await fetch(at(server), 'in/other.txt')).map(({ data }) => String(data))).toEqual(['x'])
    // rclone remembers a folder for minutes.
    if (name !== 'rclone') {
      await writeFile(join(folder, 'empty.csv'), 'grown')
      expect((await fetch(at(server), query)).map(({ bytes }) => bytes)).toEqual([5])
    }
    await expect(fetch(at(server), 'missing')).rejects.toMatchObject({ code: 'HTTP_NOT_FOUND', outcome: 'not-found' })
    await expect(fetch(at(server), 'missing/')).rejects.toMatchObject({ code: 'HTTP_NOT_FOUND' })
    // A folder of the server as the base.
    const below = { ...at(server), baseUrl: `${server.url.replace(/\/$/, '')}/in/deep%20er` }
    expect((await fetch(below, '')).map(({ key, source }) => [key, source])).toEqual([['a.csv', `${below.baseUrl}/a.csv`]])
  })

  it('is tested step by step, and says whom it does not trust', async () => {
    const { ok, steps } = await testWebdavConnection(at(nginx))
    expect(ok, JSON.stringify(steps)).toBe(true)
    expect(steps.map(({ name }) => name).slice(-2)).toEqual(['ask what it can do', 'look into the folder'])
    expect(steps.at(-2)?.detail).toMatch(/nginx.*WebDAV 2/)
    await expect(getWebdavClient(at(secured))).rejects.toMatchObject({ code: 'HTTP_TLS_FAILED', retry: 'never' })
    expect((await testWebdavConnection(at(secured))).steps.at(-1)?.error?.code).toBe('CONNECTIONS_CERTIFICATE_UNTRUSTED')
    const wrong = { ...at(nginx), password: 'wrong' }
    await expect(getWebdavClient(wrong)).rejects.toMatchObject({ code: 'HTTP_UNAUTHORIZED', outcome: 'auth' })
  })

  it('lists 10,000 files of one folder', async () => {
    const folder = join(nginx.folder, 'many')
    await mkdir(folder)
    await Promise.all(Array.from({ length: 10_000 }, (_, index) => writeFile(join(folder, `${index}`), '')))
    expect(await fetch(at(nginx), { path: 'many', dryRun: true })).toHaveLength(10_000)
    await expect(fetch({ ...at(nginx), maxListBytes: 100_000 }, { path: 'many', dryRun: true })).rejects.toMatchObject({
      code: 'HTTP_BODY_TOO_LARGE',
    })
  })

  describe('a server that is none, or an odd one', () => {
    const stub = async (status: number, xml: string): Promise<WebdavConfigInput> => {
      const server = createServer((_asked, response) => response.writeHead(status, { 'content-type': 'text/xml' }).end(xml))
      stubs.push(server)
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
      return { baseUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}/dav`, attempts: 1 }
    }
    const folder = (...hrefs: string[]): string =>
      `<multistatus xmlns="DAV:">${hrefs.map((href) => `<response><href>${href}</href><propstat><prop>${href.endsWith('/') ? '<resourcetype><collection/></resourcetype>' : '<getetag>"1"</getetag>'}</prop><status>HTTP/1.1 200 OK</status></propstat></response>`).join('')}</multistatus>`

    it.each([
      [200, '<html/>', 'WEBDAV_NOT_SPOKEN'],
      [405, '', 'WEBDAV_NOT_SPOKEN'],
      [207, '<html/>', 'WEBDAV_ANSWER_INVALID'],
      [207, folder('/dav/', '/dav/a'), 'WEBDAV_ANSWER_INVALID'],
      [403, '', 'HTTP_FORBIDDEN'],
    ])('that answers %i %s is %s', async (status, xml, code) => {
      await expect(getWebdavClient(await stub(status, xml))).rejects.toMatchObject({ code })
    })

    it('may call its folder by another path, and lists nothing outside of it', async () => {
      // Without the first question, which is for one resource.
      const unasked = async (...hrefs: string[]): Promise<WebdavClient> =>
        new WebdavClient(webdavConfigSchema.parse(await stub(207, folder(...hrefs))))
      const list = async (...hrefs: string[]): Promise<string[]> => {
        await using client = await unasked(...hrefs)
        return (await client.list('')).map(({ path }) => path)
      }
      expect(await list('/dav/', '/dav/a', '/dav/b/')).toEqual(['a', 'b'])
      expect(await list('http://inside.example.com/files/', 'http://inside.example.com/files/a%20b')).toEqual(['a b'])
      for (const href of ['/etc/passwd', '/dav/b/c', '/dav/../x/y/z', '/dav/%']) {
        await expect(list('/dav/', href)).rejects.toMatchObject({ code: 'WEBDAV_ANSWER_INVALID' })
      }
      await using client = await unasked('/dav/', '/dav/a%2F..%2F..%2Fb')
      const fetching = Array.fromAsync(
        fetchFiles(
          'webdav',
          client,
          { target: join(scratch, 'odd') },
          { signal: new AbortController().signal, logger: silentLogger },
        ),
      )
      await expect(fetching).rejects.toMatchObject({ code: 'FILES_NAME_REFUSED' })
    })
  })

  describe('a file of 100 MB', async () => {
    const block = randomBytes(MIB)
    const file = await open(join(nginx.folder, 'large.bin'), 'w')
    const hash = createHash('sha256')
    for (let index = 0; index < 100; index++) {
      block.writeUInt32BE(index)
      hash.update(block)
      await file.write(block)
    }
    await file.close()
    const expected = { bytes: 100 * MIB, checksum: `sha256:${hash.digest('hex')}` }
    const context = { signal: new AbortController().signal, logger: silentLogger }

    it('goes to a folder in bounded memory, resumed where the server died', async () => {
      const client = await getWebdavClient(at(nginx))
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
              if (starts.length === 1) {
                await nginx.down()
                await nginx.up()
              }
            }
            yield chunk
          }
        },
      }
      const target = join(scratch, 'large')
      const [item] = await Array.fromAsync(fetchFiles('webdav', watched, { path: 'large.bin', target }, context))
      expect(item).toMatchObject(expected)
      expect(starts).toHaveLength(2)
      expect(starts[1]).toBeGreaterThan(19 * MIB)
      const kept = createHash('sha256').update(await readFile(join(target, 'large.bin')))
      expect(`sha256:${kept.digest('hex')}`).toBe(expected.checksum)
      expect(most - before).toBeLessThan(32 * MIB)
    })

    it('ends with the signal, and leaves nothing behind', async () => {
      await using proxy = await startFaultProxy({ host: '127.0.0.1', port: Number(new URL(nginx.url).port) })
      await using connections = createConnections({ connectors: [webdav], variables: {} })
      const config = { ...at(nginx), baseUrl: `http://127.0.0.1:${proxy.port}/` }
      await using connector = await connections.createConnector({ protocol: 'webdav', ...config })
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
      expect((await connector.fetchData({ path: 'large.bin', dryRun: true })).items).toHaveLength(1)
      await connections.closeAllConnections()
      await expect.poll(() => proxy.connections).toBe(0)
    })
  })

  it('the example of README.md', async () => {
    await mkdir(join(nginx.folder, 'out'))
    await writeFile(join(nginx.folder, 'out', 'a.csv'), 'a,b')
    const root = join(import.meta.dirname, '..')
    const code = await readmeExample(root)
    const target = join(scratch, 'readme')
    const args = ['--conditions=@common-handlers/source', '--input-type=module-typescript', '-e']
    const env = {
      WEBDAV_BASE_URL: nginx.url,
      WEBDAV_USERNAME: nginx.user,
      WEBDAV_PASSWORD: nginx.password,
    }
    const { stdout } = await run(process.execPath, [...args, code.replace('/data/in', target)], { cwd: root, env })
    expect(stdout).toBe(`out/a.csv 3 file://${target}/a.csv\n0 more the next time\n`)
  })

  it('has example files that its schema takes', async () => {
    const folder = join(import.meta.dirname, '../examples')
    const names = (await readdir(folder)).filter((name) => /\.(json|yaml)$/.test(name))
    expect(names).toHaveLength(2)
    await using connections = createConnections({ connectors: [webdav], variables: { WEBDAV_PASSWORD: 'from the environment' } })
    for (const name of names) {
      const explained = await connections.explain('webdav', {}, { file: join(folder, name) })
      expect(explained.find(({ key }) => key === 'username')?.value).toBe('etl')
    }
  })
})
