import { execFile } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, open, readdir, readFile, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { promisify } from 'node:util'
import { closeAllConnections, createConnections } from '@common-handlers/connections'
import { fetchFiles, type RemoteFiles } from '@common-handlers/connections/files'
import { REDACTED, silentLogger } from '@common-handlers/core'
import { getSftpClient, sftp, type SftpConfigInput, testSftpConnection } from '@common-handlers/sftp'
import { describeWith, startFaultProxy, startRclone, startSftp, readmeExample, liveMemory } from '@common-handlers/testkit'
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest'

const run = promisify(execFile)
const MIB = 1024 * 1024
/** Outside of the heap. */
const heldBytes = async (): Promise<number> => (await liveMemory()).arrayBuffers

describeWith([], 'sftp', async () => {
  const scratch = await mkdtemp(join(tmpdir(), 'sftp-'))
  const [server, rclone] = [await startSftp(), await startRclone('sftp')]
  // Before the first login: rclone remembers a folder for minutes.
  await mkdir(join(rclone.folder, 'out'))
  await writeFile(join(rclone.folder, 'out', 'a.csv'), 'a,b')
  afterEach(() => closeAllConnections())
  afterAll(async () => {
    await Promise.all([server.stop(), rclone.stop()])
    await rm(scratch, { recursive: true })
  })
  const own: SftpConfigInput = {
    host: server.host,
    port: server.port,
    username: server.user,
    privateKey: server.privateKey,
    hostKeys: [server.hostKey],
  }
  const byPassword = {
    host: rclone.host,
    port: rclone.port,
    username: rclone.user,
    password: rclone.password,
    hostKeys: [rclone.hostKey ?? ''],
  }
  const { hostKeys: _hostKeys, ...unknown } = own
  const fingerprint = async (): Promise<string> => {
    const file = join(scratch, 'host.pub')
    await writeFile(file, server.hostKey)
    return (await run('ssh-keygen', ['-lf', file])).stdout.split(' ')[1] ?? ''
  }

  describe('the key of the server', () => {
    it('is refused when it is not known, with the fingerprint and what to set', async () => {
      const shown = await fingerprint()
      await expect(getSftpClient(unknown)).rejects.toMatchObject({
        code: 'SFTP_HOST_KEY_UNKNOWN',
        retry: 'never',
        message: expect.stringContaining(`set hostKeys to ["${shown}"]`) as string,
        context: { fingerprint: shown, key: server.hostKey },
      })
      const { steps } = await testSftpConnection(unknown)
      expect(steps.map(({ name, error }) => [name, error?.code])).toEqual([
        ['read the configuration', undefined],
        ['find 127.0.0.1', undefined],
        [`reach port ${server.port}`, undefined],
        ['log in', 'SFTP_HOST_KEY_UNKNOWN'],
      ])
    })

    it('is known by fingerprint, by key, and by known_hosts, hashed too', async () => {
      const file = join(scratch, 'known_hosts')
      await writeFile(file, `# a comment\n\nother.example.com ${rclone.hostKey}\n[127.0.0.1]:${server.port} ${server.hostKey}\n`)
      await (await getSftpClient({ ...unknown, hostKeys: [await fingerprint()] })).stat('.')
      await (await getSftpClient({ ...unknown, knownHosts: file })).stat('.')
      await run('ssh-keygen', ['-Hf', file])
      expect(await readFile(file, 'utf8')).not.toContain('127.0.0.1')
      await (await getSftpClient({ ...unknown, knownHosts: file, attempts: 1 })).stat('.')
      await expect(getSftpClient({ ...unknown, knownHosts: join(scratch, 'none') })).rejects.toMatchObject({
        code: 'SFTP_KNOWN_HOSTS_UNREADABLE',
      })
    })

    it('is refused when it is another, or revoked', async () => {
      const mismatch = { code: 'SFTP_HOST_KEY_MISMATCH', retry: 'never' }
      await expect(getSftpClient({ ...own, hostKeys: [rclone.hostKey ?? ''] })).rejects.toMatchObject(mismatch)
      await expect(getSftpClient({ ...own, hostKeys: [`SHA256:${'A'.repeat(43)}`] })).rejects.toMatchObject(mismatch)
      const file = join(scratch, 'revoked')
      await writeFile(file, `@revoked * ${server.hostKey}\n`)
      await expect(getSftpClient({ ...own, knownHosts: file })).rejects.toMatchObject(mismatch)
    })
  })

  describe('a login', () => {
    it('by key, by encrypted key and by password', async () => {
      const { encryptedPrivateKey: privateKey, passphrase } = server
      for (const config of [own, { ...own, privateKey, passphrase }, byPassword]) {
        const { ok, steps } = await testSftpConnection(config)
        expect(ok, JSON.stringify(steps)).toBe(true)
        expect(steps.at(-2)?.detail).toMatch(/^SSH-2\.0-.+, SHA256:/)
      }
      for (const wrong of [{ passphrase: 'wrong' }, {}]) {
        await expect(getSftpClient({ ...own, privateKey, ...wrong })).rejects.toMatchObject({
          code: 'SFTP_KEY_UNUSABLE',
          outcome: 'config',
        })
      }
      await expect(getSftpClient({ ...byPassword, password: 'wrong' })).rejects.toMatchObject({ code: 'SFTP_LOGIN_REFUSED' })
    })

    it('by agent', async () => {
      const { privateKey: _key, ...keyless } = own
      const agent = join(scratch, 'agent')
      await expect(getSftpClient({ ...keyless, agent })).rejects.toMatchObject({ retry: 'never' })
      const started = run('ssh-agent', ['-D', '-a', agent])
      started.catch(() => undefined)
      try {
        const key = join(scratch, 'key')
        await writeFile(key, server.privateKey, { mode: 0o600 })
        // Until the agent listens.
        await vi.waitFor(() => run('ssh-add', [key], { env: { ...process.env, SSH_AUTH_SOCK: agent } }), { timeout: 10_000 })
        await (await getSftpClient({ ...keyless, agent })).stat('.')
      } finally {
        started.child.kill()
      }
    })

    it('by URL', async () => {
      const { host, port, username, password, hostKeys } = byPassword
      await using client = await getSftpClient(`sftp://${username}:${password}@${host}:${port}`, { overrides: { hostKeys } })
      expect(client.urlOf('/a b/c')).toBe(`sftp://${username}@${host}:${port}/a%20b/c`)
      expect(client.urlOf('c#')).toBe(`sftp://${username}@${host}:${port}/~/c%23`)
      await expect(getSftpClient('sftp://host/out')).rejects.toMatchObject({ code: 'SFTP_URL_INVALID' })
    })
  })

  it('lists files by any name, follows links to files and to nothing else', async () => {
    const folder = join(server.folder, 'names')
    await mkdir(join(folder, 'real'), { recursive: true })
    const names = ['ü ö', 'a#b?c%20', "it's", 'line\nbreak', '*', '"quoted"', '日本']
    for (const name of names) await writeFile(join(folder, name), name)
    await writeFile(join(folder, 'real', 'inside'), 'x')
    await symlink(join(folder, 'ü ö'), join(folder, 'link'))
    await symlink(join(folder, 'real'), join(folder, 'linked-folder'))
    await symlink(folder, join(folder, 'real', 'loop'))
    await symlink('/nothing/there', join(folder, 'dangling'))
    await run('mkfifo', [join(folder, 'fifo')])
    await using connections = createConnections({ connectors: [sftp], variables: {} })
    await using connector = await connections.createConnector({ protocol: 'sftp', ...own })
    const { items } = await connector.fetchData({ path: folder, target: join(scratch, 'names') })
    expect(items.map(({ key = '' }) => key.slice(folder.length + 1)).toSorted()).toEqual(
      [...names, 'link', 'real/inside'].toSorted(),
    )
    for (const name of names) expect(await readFile(join(scratch, 'names', name), 'utf8')).toBe(name)
    expect((await connector.fetchData('names/link')).items[0]?.data).toEqual(Buffer.from('ü ö'))
    await expect(connector.fetchData('missing')).rejects.toMatchObject({ code: 'SFTP_NOT_FOUND', outcome: 'not-found' })
  })

  it('takes only what is new, from 10,000 files', async () => {
    const folder = join(server.folder, 'many')
    await mkdir(folder)
    await Promise.all(Array.from({ length: 10_000 }, (_, index) => writeFile(join(folder, `${index}`), '')))
    const now = new Date('2040-01-01T00:00:00Z')
    for (const index of [7, 2_007, 4_007, 6_007, 8_007]) await utimes(join(folder, `${index}`), now, now)
    await using connections = createConnections({ connectors: [sftp], variables: {} })
    await using connector = await connections.createConnector({ protocol: 'sftp', ...own })
    expect((await connector.fetchData({ path: 'many', dryRun: true })).items).toHaveLength(10_000)
    const query = { path: 'many', modifiedSince: now, target: join(scratch, 'new') }
    const keys = ['many/2007', 'many/4007', 'many/6007', 'many/7', 'many/8007']
    expect((await connector.fetchData(query)).items.map(({ key }) => key)).toEqual(keys)
    expect((await connector.fetchData(query)).items).toEqual([])
    await writeFile(join(folder, '7'), 'changed')
    await utimes(join(folder, '7'), now, now)
    expect((await connector.fetchData(query)).items.map(({ key }) => key)).toEqual(['many/7'])
  })

  describe('a file of 100 MB', async () => {
    const block = randomBytes(MIB)
    const file = await open(join(server.folder, 'large.bin'), 'w')
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
      await using proxy = await startFaultProxy(server)
      const client = await getSftpClient({ ...own, port: proxy.port })
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
          }
        },
      }
      proxy.limitBytes(40 * MIB, { once: true })
      const target = join(scratch, 'large')
      const [item] = await Array.fromAsync(fetchFiles('sftp', watched, { path: 'large.bin', target }, context))
      expect(item).toMatchObject(expected)
      expect(starts).toHaveLength(2)
      expect(starts[1]).toBeGreaterThan(30 * MIB)
      const kept = createHash('sha256').update(await readFile(join(target, 'large.bin')))
      expect(`sha256:${kept.digest('hex')}`).toBe(expected.checksum)
      expect(most - before).toBeLessThan(32 * MIB)
    })

    it('ends with the server, and with the signal, and leaves nothing behind', async () => {
      await using proxy = await startFaultProxy(server)
      await using connections = createConnections({ connectors: [sftp], variables: {} })
      await using connector = await connections.createConnector({
        protocol: 'sftp',
        ...own,
        port: proxy.port,
        attempts: 2,
        retryBudgetMs: 1_000,
      })
      const target = join(scratch, 'none')
      proxy.limitBytes(20 * MIB)
      const refuseOnceCut = async (): Promise<void> => {
        await expect.poll(() => proxy.connections, { timeout: 10_000 }).toBe(1)
        await expect.poll(() => proxy.connections, { timeout: 10_000, interval: 5 }).toBe(0)
        await proxy.refuse()
      }
      const refusing = refuseOnceCut()
      await expect(connector.fetchData({ path: 'large.bin', target })).rejects.toMatchObject({ outcome: 'connection' })
      await refusing
      await proxy.accept()
      proxy.limitBytes(Infinity)

      const abort = new AbortController()
      const reason = new RangeError('changed my mind')
      const fetching = connector.fetchData({ path: 'large.bin', target }, { signal: abort.signal })
      const writing = async (): Promise<number> =>
        (await readdir(join(target, '.storage/writing')).catch(() => [])).filter((name) => name !== '').length
      await expect.poll(writing, { interval: 1 }).toBeGreaterThan(0)
      abort.abort(reason)
      await expect(fetching).rejects.toBe(reason)
      const visible = await readdir(target, { recursive: true })
      expect(visible.filter((name) => !name.startsWith('.storage'))).toEqual([])
      expect(await writing()).toBe(0)
      expect((await connector.fetchData({ path: 'large.bin', dryRun: true })).items).toHaveLength(1)
      await connections.closeAllConnections()
      await expect.poll(() => proxy.connections).toBe(0)
    })

    it('shows nothing of itself after a kill -9, and comes whole the next time', async () => {
      const target = join(scratch, 'killed')
      const code = `
        import { createConnections } from '@common-handlers/connections'
        import { sftp } from '@common-handlers/sftp'
        const config = JSON.parse(process.env.CONFIG)
        const connector = await createConnections({ connectors: [sftp] }).createConnector({ protocol: 'sftp', ...config })
        await connector.fetchData({ path: 'large.bin', target: ${JSON.stringify(target)} })`
      const args = ['--conditions=@common-handlers/source', '--input-type=module', '-e', code]
      const child = run(process.execPath, args, { cwd: join(import.meta.dirname, '..'), env: { CONFIG: JSON.stringify(own) } })
      const written = async (): Promise<number> => {
        const folder = join(target, '.storage/writing')
        const [name] = await readdir(folder).catch(() => [])
        return name === undefined ? 0 : (await stat(join(folder, name)).catch(() => ({ size: 0 }))).size
      }
      await expect.poll(written, { interval: 1, timeout: 10_000 }).toBeGreaterThan(MIB)
      child.child.kill('SIGKILL')
      await expect(child).rejects.toMatchObject({ signal: 'SIGKILL' })
      const visible = async (): Promise<string[]> =>
        (await readdir(target, { recursive: true })).filter((name) => !name.startsWith('.storage'))
      expect(await visible()).toEqual([])
      const client = await getSftpClient(own)
      const query = { path: 'large.bin', target }
      expect(await Array.fromAsync(fetchFiles('sftp', client, query, context))).toMatchObject([expected])
      expect(await Array.fromAsync(fetchFiles('sftp', client, query, context))).toEqual([])
      expect(await written()).toBe(0)
    })

    it('is not waited for where the line is dead', async () => {
      await using proxy = await startFaultProxy(server)
      const client = await getSftpClient({ ...own, port: proxy.port, timeoutMs: 400, attempts: 1 })
      const chunks = fetchFiles('sftp', client, { path: 'large.bin', target: join(scratch, 'dead') }, context)
      void setTimeout(100).then(() => proxy.stall())
      await expect(chunks.next()).rejects.toMatchObject({ outcome: expect.stringMatching(/^(timeout|connection)$/) as string })
      await expect(client.stat('large.bin')).rejects.toMatchObject({
        outcome: expect.stringMatching(/^(timeout|connection)$/) as string,
      })
      proxy.resume()
      await expect.poll(async () => (await client.stat('large.bin').catch(() => undefined))?.size).toBe(100 * MIB)
    })
  })

  it('finds its way back after the server was gone', async () => {
    await writeFile(join(server.folder, 'one'), 'one')
    const client = await getSftpClient(own)
    await client.stat('one')
    await server.down()
    await expect(client.stat('one')).rejects.toMatchObject({ outcome: 'connection' })
    await server.up()
    expect(await client.stat('one')).toMatchObject({ kind: 'file', size: 3 })
  })

  it('the example of README.md', async () => {
    const root = join(import.meta.dirname, '..')
    const code = await readmeExample(root)
    const target = join(scratch, 'readme')
    const args = ['--conditions=@common-handlers/source', '--input-type=module-typescript', '-e']
    const env = {
      SFTP_HOST: rclone.host,
      SFTP_PORT: String(rclone.port),
      SFTP_USERNAME: rclone.user,
      SFTP_PASSWORD: rclone.password,
      SFTP_HOST_KEYS: rclone.hostKey ?? '',
    }
    const { stdout } = await run(process.execPath, [...args, code.replace('/data/in', target)], { cwd: root, env })
    expect(stdout).toBe(`out/a.csv 3 file://${target}/a.csv\n0 more the next time\n`)
  })

  it('has example files that its schema takes', async () => {
    const folder = join(import.meta.dirname, '../examples')
    const names = (await readdir(folder)).filter((name) => /\.(json|yaml)$/.test(name))
    expect(names).toHaveLength(2)
    await using connections = createConnections({ connectors: [sftp], variables: { SFTP_PASSWORD: 'from the environment' } })
    for (const name of names) {
      const explained = await connections.explain('sftp', {}, { file: join(folder, name) })
      expect(explained.find(({ key }) => key === 'host')?.value).toBe('files.example.com')
      expect(explained.find(({ key }) => key === 'password')?.value).toBe(REDACTED)
    }
  })
})
