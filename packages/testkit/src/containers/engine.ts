import { execFile } from 'node:child_process'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { readEnvironment } from '../config.ts'
import { provide, withLock, type Artifact } from '../provision/cache.ts'
import { ProvisionError, runClient } from '../provision/package-clients.ts'
import type { EngineAddress } from '../servers/addresses.ts'
import { ServerUnavailable } from '../errors.ts'
import { makeStandInBase } from './stand-in-base.ts'

const run = promisify(execFile)

/** What podman needs to build and run without a service manager. Debian's names. */
const packages = [
  'podman',
  'buildah',
  'crun',
  'runc',
  'catatonit',
  'netavark',
  'golang-github-containers-common',
  'slirp4netns',
  'uidmap',
]

/** The image that the Dockerfiles start from, where no registry has it. */
const baseImage = 'localhost/node:24-bookworm-slim'

/**
 * An engine that builds and runs images: Docker where it answers, otherwise podman, installed from Debian's packages, with
 * a storage of its own and a stand-in for the base image.
 */
export async function findEngine(): Promise<EngineAddress> {
  const docker = await run('docker', ['info', '--format', '{{.ServerVersion}}']).then(
    ({ stdout }) => /^\d/.test(stdout),
    () => false,
  )
  if (docker)
    return {
      kind: 'engine',
      name: 'docker',
      command: ['docker'],
      environment: {},
      buildOptions: ['--progress=plain'],
      limitedRun: ['run'],
    }
  try {
    return await podman()
  } catch (error) {
    if (!(error instanceof ProvisionError)) throw error
    throw new ServerUnavailable('engine', `no Docker engine answers, and podman cannot be had: ${error.message}`, {
      cause: error,
    })
  }
}

async function podman(): Promise<EngineAddress> {
  if (process.platform !== 'linux' || process.getuid?.() !== 0)
    throw new ProvisionError('podman is set up here for root on Linux')
  await withLock(join(await madeCacheDirectory(), 'podman-packages.lock'), installPackages)
  const folder = join(await madeCacheDirectory(), 'containers')
  const files = await configure(folder)
  const address: EngineAddress = {
    kind: 'engine',
    name: 'podman',
    // crun takes no machine on which some controllers are of cgroup version 1 and some of 2; a mount namespace of its own
    // without the second is all that it needs.
    command: [
      'unshare',
      '--mount',
      '--propagation',
      'private',
      'sh',
      '-c',
      'if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi; exec podman "$@"',
      'podman',
    ],
    environment: {
      CONTAINERS_STORAGE_CONF: files.storage,
      CONTAINERS_CONF: files.containers,
      CONTAINERS_REGISTRIES_CONF: files.registries,
    },
    buildOptions: ['--isolation', 'chroot', '--network', 'host', '--format', 'docker', '--layers', '--timestamp', '0'],
    // crun is told to leave control groups alone, above; runc takes them as this machine has them.
    limitedRun: ['--runtime', 'runc', 'run', '--cgroups', 'enabled'],
  }
  await withLock(join(folder, 'base.lock'), () => haveBase(address))
  return address
}

async function madeCacheDirectory(): Promise<string> {
  const { cacheDirectory } = readEnvironment()
  await mkdir(cacheDirectory, { recursive: true })
  return cacheDirectory
}

async function installPackages(): Promise<void> {
  const missing: string[] = []
  for (const name of packages) {
    const { stdout } = await run('dpkg-query', ['-W', '-f=${Status}', name]).catch(() => ({ stdout: '' }))
    if (!stdout.includes('install ok installed')) missing.push(name)
  }
  if (missing.length === 0) return
  if (!readEnvironment().fetch) throw new ProvisionError(`missing: ${missing.join(', ')}, and COMMON_HANDLERS_FETCH is off`)
  const env = { DEBIAN_FRONTEND: 'noninteractive' }
  const install = ['install', '--yes', '--quiet', '--no-install-recommends', ...missing]
  // The lists may be there, or old, or not at all.
  await runClient('apt-get', install, { env }).catch(async () => {
    await runClient('apt-get', ['update', '--quiet'], { env })
    await runClient('apt-get', install, { env })
  })
}

/** Storage and settings of our own: nothing on this machine is touched, and nothing on it changes what a build does. */
async function configure(
  folder: string,
): Promise<{ readonly storage: string; readonly containers: string; readonly registries: string }> {
  await mkdir(folder, { recursive: true })
  const files = {
    storage: join(folder, 'storage.conf'),
    containers: join(folder, 'containers.conf'),
    registries: join(folder, 'registries.conf'),
  }
  await writeFile(
    files.storage,
    `[storage]\ndriver = "overlay"\ngraphroot = "${join(folder, 'storage')}"\nrunroot = "${join(folder, 'run')}"\n`,
  )
  await writeFile(
    files.containers,
    [
      '[containers]',
      'netns = "host"',
      'cgroups = "disabled"',
      'pids_limit = 0',
      // Podman lowers its own limits to these first and may not raise them again.
      'default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]',
      '[engine]',
      'cgroup_manager = "cgroupfs"',
      'events_logger = "file"',
      'runtime = "crun"',
      'runtime_supports_nocgroups = ["crun"]',
      '[network]',
      'network_backend = "netavark"',
      '',
    ].join('\n'),
  )
  await writeFile(
    files.registries,
    'unqualified-search-registries = ["localhost"]\nshort-name-mode = "permissive"\n[aliases]\n"node" = "localhost/node"\n',
  )
  return files
}

const baseRoot: Artifact = {
  name: 'node-base-image',
  version: process.versions.node,
  async fetch(into, scratch) {
    await makeStandInBase(join(scratch, 'root'))
    await runClient('tar', ['-C', join(scratch, 'root'), '-cf', join(into, 'root.tar'), '.'])
    await rm(join(scratch, 'root'), { recursive: true })
  },
}

async function haveBase(engine: EngineAddress): Promise<void> {
  const tag = `${baseImage.replace('localhost/', 'localhost/stand-in-')}-${process.versions.node}`
  if ((await engineRun(engine, ['image', 'exists', tag])).code === 0) return
  const folder = await provide(baseRoot)
  const path = 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
  const imported = await engineRun(engine, [
    'import',
    '--change',
    path,
    '--change',
    'CMD ["node"]',
    join(folder, 'root.tar'),
    tag,
  ])
  if (imported.code !== 0) throw new ProvisionError(`the base image cannot be imported: ${imported.stderr}`)
  await engineRun(engine, ['tag', tag, baseImage])
}

export interface EngineAnswer {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/** Runs one command of the engine's command line, such as `['run', '--rm', image]`, to its end, whatever its exit code. */
export async function engineRun(
  { command, environment }: EngineAddress,
  args: readonly string[],
  options: { readonly signal?: AbortSignal; readonly cwd?: string } = {},
): Promise<EngineAnswer> {
  const [program = '', ...before] = command
  return await new Promise((resolve, reject) => {
    execFile(
      program,
      [...before, ...args],
      { ...options, env: { ...process.env, ...environment }, maxBuffer: 256 * 1024 * 1024 },
      (error, stdout, stderr) => {
        if (error !== null && typeof error.code !== 'number') reject(error)
        else resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr })
      },
    )
  })
}
