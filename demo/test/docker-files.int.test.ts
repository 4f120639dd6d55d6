import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { hadolintBinary } from '@common-handlers/testkit'
import { beforeAll, describe, expect, it } from 'vitest'
import { type Compose, readCompose } from './compose-stack.ts'

const docker = new URL('../../docker/', import.meta.url).pathname
const run = promisify(execFile)

describe('docker/compose.yaml', () => {
  let compose: Compose
  beforeAll(async () => {
    compose = await readCompose()
  })

  it('is taken by Docker Compose, which refuses a key that it does not know', async () => {
    expect(Object.keys(compose.services)).toContain('report')
    const folder = await mkdtemp(join(tmpdir(), 'compose-file-'))
    const file = join(folder, 'compose.yaml')
    await writeFile(file, (await readFile(join(docker, 'compose.yaml'), 'utf8')).replace('pids_limit:', 'pid_limit:'))
    await expect(readCompose(file)).rejects.toThrow('pid_limit')
    await rm(folder, { recursive: true })
  })

  it('gives the programs no right and no place to write', () => {
    for (const [name, service] of Object.entries(compose.services)) {
      if (!/extractor|ingestor/.test(service.image)) continue
      expect(service, name).toMatchObject({
        init: true,
        read_only: true,
        cap_drop: ['ALL'],
        security_opt: ['no-new-privileges:true'],
        mem_limit: String(256 * 1024 * 1024),
      })
    }
  })

  it('names each image by a version, each mounted file that is there, and opens ports on loopback alone', () => {
    for (const [name, service] of Object.entries(compose.services)) {
      if (service['build'] === undefined) expect(service.image, name).toMatch(/:v?\d+(\.\d+)*$/)
      for (const { type, source } of service.volumes ?? []) if (type === 'bind') expect(existsSync(source), source).toBe(true)
      for (const { host_ip } of (service['ports'] ?? []) as { host_ip?: string }[]) expect(host_ip, name).toBe('127.0.0.1')
      expect(service['mem_limit'], name).toBeDefined()
    }
    for (const { file } of Object.values(compose.secrets)) expect(existsSync(file), file).toBe(true)
  })

  it('shows no secret on a command line, and marks each as one of development', async () => {
    const values = new Set<string>()
    for (const file of await readdir(join(docker, 'compose/secrets'))) {
      const text = await readFile(join(docker, 'compose/secrets', file), 'utf8')
      const found = text.match(/development-only-[\w-]+/g)
      expect(found, file).not.toBeNull()
      for (const value of found ?? []) values.add(value)
    }
    for (const [name, { entrypoint, command, healthcheck }] of Object.entries(compose.services)) {
      const line = [...(entrypoint ?? []), ...(command ?? []), ...(healthcheck?.test ?? [])].join(' ')
      for (const value of values) expect(line, name).not.toContain(value)
    }
  })
})

describe('the Dockerfiles', () => {
  it('give hadolint nothing to say', async () => {
    const files = (await readdir(docker)).filter((file) => file.endsWith('.Dockerfile'))
    expect(files.length).toBeGreaterThan(1)
    const { stdout } = await run(
      await hadolintBinary(),
      files.map((file) => join(docker, file)),
    )
    expect(stdout).toBe('')
  })
})
