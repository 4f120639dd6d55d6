import { execFile } from 'node:child_process'
import { chmod, mkdir, readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  dockerComposeBinary,
  freePorts,
  launch,
  openbaoBinary,
  type PostgresServer,
  runOnPostgres,
  seaweedfsBinary,
  type ServerControl,
  startPostgres,
  startTrino,
  trinoCliCommand,
} from '@common-handlers/testkit'

// Runs the services of docker/compose.yaml as processes: their own commands, environments, health checks and mounted files,
// in the order that depends_on gives. Only addresses are others: ports on loopback for the names of services, folders for
// mounts. PostgreSQL and Trino are started as testkit starts them, with the mounted files.

const root = new URL('../../', import.meta.url).pathname
const mounted = join(root, 'docker/compose')

interface Service {
  readonly image: string
  readonly entrypoint: readonly string[] | null
  readonly command: readonly string[] | null
  readonly environment?: Readonly<Record<string, string>>
  readonly healthcheck?: { readonly test: readonly string[] }
  readonly volumes?: readonly { readonly type: string; readonly source: string; readonly target: string }[]
  readonly depends_on?: Readonly<Record<string, { readonly condition: string }>>
  readonly [key: string]: unknown
}

export interface Compose {
  readonly services: Readonly<Record<string, Service>>
  readonly secrets: Readonly<Record<string, { readonly file: string }>>
}

export interface Ended {
  readonly code: number
  readonly output: string
}

async function run(command: string, args: readonly string[], env: Readonly<Record<string, string>>): Promise<Ended> {
  return await new Promise((resolve, reject) => {
    execFile(command, args, { env: { ...process.env, ...env }, maxBuffer: 64 * 1024 * 1024 }, (error, stdout, stderr) => {
      if (error !== null && typeof error.code !== 'number') reject(error)
      else resolve({ code: error === null ? 0 : Number(error.code), output: stdout + stderr })
    })
  })
}

/** What Docker Compose itself makes of a file: refused, or with everything filled in. */
export async function readCompose(file: string = join(root, 'docker/compose.yaml')): Promise<Compose> {
  const { code, output } = await run(
    await dockerComposeBinary(),
    ['--file', file, '--profile', '*', 'config', '--format', 'json'],
    {},
  )
  if (code !== 0) throw new Error(output)
  return JSON.parse(output) as Compose
}

export interface ComposeStack extends AsyncDisposable {
  readonly postgres: PostgresServer
  /** `postgres:5432` or `/run/secrets` → what stands for it here. */
  here(name: string): string
  /** Starts a service after those it depends on, and waits until they are as it wants them. */
  start(name: string): Promise<void>
  /** Runs a service that ends, with those it depends on started first; every call runs it anew. */
  result(name: string): Promise<Ended>
  /** Runs a command in the surroundings of a service, as `docker compose exec` does. */
  exec(name: string, command: readonly string[]): Promise<Ended>
}

export async function composeStack(folder: string): Promise<ComposeStack> {
  const { services } = await readCompose()
  const started = new AsyncDisposableStack()
  const ports = await freePorts(14)
  const port = (index: number): number => ports[index] ?? 0
  const loopback = (index: number): string => `127.0.0.1:${port(index)}`
  const mounts = Object.values(services).flatMap(({ volumes = [] }) =>
    volumes
      .filter(({ source }) => source.startsWith(mounted))
      .map(({ source, target }): [string, string] => [target, join(folder, relative(mounted, source))]),
  )
  const substitutions = new Map<string, string>([
    ...mounts,
    ['/run/secrets', join(folder, 'secrets')],
    ['/run/database', join(folder, 'database')],
    ['-dir=/data', `-dir=${join(folder, 'data')}`],
    ['openbao:8200', loopback(0)],
    ['0.0.0.0:8200', loopback(0)],
    ['127.0.0.1:8200', loopback(0)],
    ['seaweedfs:8333', loopback(1)],
    ['-s3.port=8333', `-s3.port=${port(1)}`],
    ['seaweedfs:8181', loopback(2)],
    ['-s3.port.iceberg=8181', `-s3.port.iceberg=${port(2)}`],
    // SeaweedFS's way to say both ports of a server.
    ['seaweedfs:9333', `${loopback(3)}.${port(4)}`],
    ['-ip=seaweedfs', '-ip=127.0.0.1'],
    ['-ip.bind=0.0.0.0', '-ip.bind=127.0.0.1'],
    ['extractor-loop:9464', loopback(12)],
    ['ingestor-loop:9464', loopback(13)],
  ])
  /** The ports that a container has for itself and that have no name in the file. */
  const furtherPorts: Readonly<Record<string, readonly string[]>> = {
    seaweedfs: [
      'master.port',
      'master.port.grpc',
      'volume.port',
      'volume.port.grpc',
      'filer.port',
      'filer.port.grpc',
      's3.port.grpc',
      'admin.port',
      'admin.port.grpc',
    ].map((flag, index) => `-${flag}=${port(3 + index)}`),
  }
  const here = (text: string): string => {
    let result = text
    for (const [from, to] of substitutions) result = result.replaceAll(from, to)
    return result
  }

  // Of the major version that the image has.
  const postgres = started.use(await startPostgres({ binaries: 'embedded' }))
  substitutions.set('postgres:5432', `${postgres.host}:${postgres.port}`)
  await programs(join(folder, 'bin'))
  for (const empty of ['database', 'data']) await mkdir(join(folder, empty))

  const serviceOf = (name: string): Service => {
    const service = services[name]
    if (service === undefined) throw new Error(`compose.yaml has no service ${name}`)
    // A listening address that names no host is one of the container's own.
    const text = JSON.stringify(service).replaceAll('":9464"', `"${here(`${name}:9464`)}"`)
    return JSON.parse(here(text)) as Service
  }
  const environmentOf = (service: Service): Record<string, string> => ({
    ...service.environment,
    PATH: `${join(folder, 'bin')}:${process.env['PATH'] ?? ''}`,
    HOME: folder,
  })
  const commandOf = (name: string, service: Service): readonly string[] => {
    const image = service.image.replace(/:.*$/, '')
    const command = [
      ...(service.entrypoint ?? entrypoints[image] ?? []),
      ...(service.command ?? []),
      ...(furtherPorts[name] ?? []),
    ]
    if (command.length === 0) throw new Error(`nothing is known of how ${service.image} starts`)
    return command
  }
  const exec: ComposeStack['exec'] = async (name, [command = '', ...args]) => {
    const service = serviceOf(name)
    return await run(command, args.map(here), environmentOf(service))
  }
  const healthy = async (name: string): Promise<void> => {
    const [kind, ...test] = serviceOf(name).healthcheck?.test ?? []
    const command = kind === 'CMD-SHELL' ? ['sh', '-c', ...test] : test
    const { code, output } = await exec(name, command)
    if (code !== 0) throw new Error(`${name} is not healthy: ${output}`)
  }

  const server = async (name: string): Promise<ServerControl> => {
    if (name === 'postgres') {
      // As the image does at its first start: the database, then the files in the order of their names.
      await runOnPostgres(postgres, 'create database app')
      const files = (services[name]?.volumes ?? []).filter(({ target }) => target.includes('initdb.d'))
      for (const { source } of files.toSorted((a, b) => a.target.localeCompare(b.target))) {
        await runOnPostgres({ ...postgres, database: 'app' }, here(await readFile(source, 'utf8')))
      }
      return postgres
    }
    if (name === 'trino') {
      const catalogs = join(folder, 'trino/catalog')
      const {
        S3_ACCESS_KEY: accessKeyId = '',
        S3_SECRET_KEY: secretAccessKey = '',
        ...environment
      } = services[name]?.environment ?? {}
      const trino = await startTrino({
        s3: {
          kind: 's3',
          endpoint: `http://${here('seaweedfs:8333')}`,
          catalogUri: `http://${here('seaweedfs:8181')}`,
          region: 'us-east-1',
          accessKeyId,
          secretAccessKey,
          bucket: 'lake',
          tableBucket: 'warehouse',
        },
        catalogFiles: (await readdir(catalogs)).map((file) => join(catalogs, file)),
        environment: { ...environment, S3_ACCESS_KEY: accessKeyId, S3_SECRET_KEY: secretAccessKey },
      })
      substitutions.set('trino:8080', new URL(trino.url).host)
      await lay(folder, here)
      await healthy(name)
      return trino
    }
    const service = serviceOf(name)
    const [command = '', ...args] = commandOf(name, service)
    const log = join(folder, 'logs', name)
    await mkdir(log, { recursive: true })
    return await launch({
      name,
      folder: log,
      command: command === 'bao' || command === 'weed' ? join(folder, 'bin', command) : command,
      args,
      env: environmentOf(service),
      stopSignal: 'SIGTERM',
      startTimeoutMs: 60_000,
      ready: () => (service.healthcheck === undefined ? Promise.resolve() : healthy(name)),
    })
  }

  const running = new Map<string, Promise<void>>()
  const ended = new Map<string, Promise<Ended>>()
  const dependencies = async (name: string): Promise<void> => {
    for (const [needed, { condition }] of Object.entries(services[name]?.depends_on ?? {})) {
      if (condition !== 'service_completed_successfully') await start(needed)
      else {
        const once = ended.get(needed) ?? result(needed)
        ended.set(needed, once)
        const { code, output } = await once
        if (code !== 0) throw new Error(`${needed} ended with ${code}:\n${output}`)
      }
    }
    await lay(folder, here)
  }
  const start = (name: string): Promise<void> => {
    const known = running.get(name)
    if (known !== undefined) return known
    const starting = (async () => {
      await dependencies(name)
      started.use(await server(name))
    })()
    running.set(name, starting)
    return starting
  }
  const result = async (name: string): Promise<Ended> => {
    await dependencies(name)
    return await exec(name, commandOf(name, serviceOf(name)))
  }
  return { postgres, here, start, result, exec, [Symbol.asyncDispose]: () => started.disposeAsync() }
}

/** What the images start when no entrypoint is given. */
const app = (name: string): readonly string[] => [
  process.execPath,
  '--conditions=@common-handlers/source',
  join(root, `apps/${name}/src/main.ts`),
]
const entrypoints: Readonly<Record<string, readonly string[]>> = {
  'audit-log-extractor': app('extractor'),
  'iceberg-ingestor': app('ingestor'),
  'chrislusf/seaweedfs': ['weed'],
}

/** The programs of the images, by their names there. */
async function programs(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true })
  await symlink(await openbaoBinary(), join(folder, 'bao'))
  await symlink(await seaweedfsBinary(), join(folder, 'weed'))
  const words = (await trinoCliCommand()).map((word) => `'${word}'`).join(' ')
  await writeFile(join(folder, 'trino'), `#!/bin/sh\nexec ${words} "$@"\n`, { mode: 0o755 })
}

/** The mounted files, with the addresses as they are here. */
async function lay(folder: string, here: (text: string) => string): Promise<void> {
  for (const entry of await readdir(mounted, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    const from = join(entry.parentPath, entry.name)
    const to = join(folder, relative(mounted, from))
    await mkdir(dirname(to), { recursive: true })
    await writeFile(to, here(await readFile(from, 'utf8')))
    await chmod(to, (await stat(from)).mode)
  }
}

/** Asks again until there is an answer. */
export async function eventually<T>(what: string, ask: () => Promise<T | undefined>): Promise<T> {
  for (let attempt = 0; attempt < 240; attempt++) {
    const answer = await ask()
    if (answer !== undefined) return answer
    await sleep(500)
  }
  throw new Error(`${what}: nothing after two minutes`)
}
