import { chmod, chown, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ServerUnavailable } from '../errors.ts'
import { pgbouncerBinary } from '../provision/artifacts.ts'
import { postgresAddress, type PostgresAddress } from './addresses.ts'
import { onFreePorts } from './ports.ts'
import { runOnPostgres, unprivilegedAccount } from './postgres.ts'
import { inTemporaryFolder, launch, type ServerControl } from './server-process.ts'

export interface PgBouncerOptions {
  /** Further settings of its `[pgbouncer]` section, for example `{ default_pool_size: '2' }`. */
  readonly settings?: Readonly<Record<string, string>>
}

/** Where clients connect; user, password and database are those of the server behind it. */
export type PgBouncerServer = PostgresAddress & ServerControl

/**
 * Starts a PgBouncer before a PostgreSQL server, with `pool_mode = transaction`. Any database of the server can be
 * connected to, as the given user.
 * @throws ServerUnavailable if there is no pgbouncer and none can be installed, ServerStartError if it does not start
 */
export async function startPgBouncer(server: PostgresAddress, options: PgBouncerOptions = {}): Promise<PgBouncerServer> {
  const command = await pgbouncerBinary().catch((error: Error) => {
    throw new ServerUnavailable('pgbouncer', error.message, { cause: error })
  })
  return await inTemporaryFolder('pgbouncer', async (folder) => {
    const account = await unprivilegedAccount()
    const users = join(folder, 'users.txt')
    const own = async (file: string, text: string): Promise<void> => {
      await writeFile(file, text, { mode: 0o600 })
      if (account !== undefined) await chown(file, account.uid, account.gid)
    }
    await chmod(folder, 0o755)
    await own(users, `"${server.user}" "${server.password}"\n`)
    return await onFreePorts(1, async ([port = 0]) => {
      const address = postgresAddress({
        host: '127.0.0.1',
        port,
        user: server.user,
        password: server.password,
        database: server.database,
      })
      const settings = {
        listen_addr: '127.0.0.1',
        listen_port: String(port),
        unix_socket_dir: '',
        auth_type: 'scram-sha-256',
        auth_file: users,
        pool_mode: 'transaction',
        ...options.settings,
      }
      const file = join(folder, 'pgbouncer.ini')
      const lines = Object.entries(settings).map(([name, value]) => `${name} = ${value}`)
      await own(file, `[databases]\n* = host=${server.host} port=${server.port}\n\n[pgbouncer]\n${lines.join('\n')}\n`)
      const control = await launch({
        name: 'pgbouncer',
        folder,
        command,
        args: [file],
        ...(account === undefined ? {} : { account }),
        stopSignal: 'SIGINT',
        startTimeoutMs: 20_000,
        ready: () => runOnPostgres(address, 'SELECT 1'),
      })
      return { ...address, ...control }
    })
  })
}
