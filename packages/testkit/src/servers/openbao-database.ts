import { randomUUID } from 'node:crypto'
import type { OpenBaoAddress, PostgresAddress } from './addresses.ts'
import { openbaoAdmin } from './openbao.ts'
import { runOnPostgres } from './postgres.ts'

const CREATE = `CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`

interface Times {
  readonly default_ttl: string
  readonly max_ttl?: string
}

/** What tests arrange on a database secrets engine of OpenBao. */
export interface OpenBaoDatabase {
  /** Makes a role for dynamic users and returns the path of its credentials. */
  role(times: Times): Promise<string>
  /** Gives the leases of a role other times from now on. */
  changeRole(path: string, times: Times): Promise<void>
  /** Makes a role for one account whose password the server changes; `rotate` makes it do so now. */
  staticRole(times: { readonly rotation_period: string }): Promise<{ readonly path: string; rotate(): Promise<void> }>
  /** How many leases of a path the server holds. */
  leases(path: string): Promise<number>
  /** Mounts it again on a server that has forgotten everything, with the roles it had. */
  restore(): Promise<void>
  /** Revokes what is left and unmounts it. */
  remove(): Promise<void>
}

/** Mounts a database secrets engine of its own on an OpenBao server, for users of a PostgreSQL server. */
export async function openbaoDatabase(openbao: OpenBaoAddress, postgres: PostgresAddress): Promise<OpenBaoDatabase> {
  const admin = openbaoAdmin(openbao)
  const id = randomUUID().slice(0, 8)
  const mount = `database-${id}`
  const written: [path: string, body: object][] = []
  const must = async (method: string, path: string, body?: object): Promise<void> => {
    const { status, body: answer } = await admin.request(method, path, body)
    if (status >= 300) throw new Error(`${method} ${path}: ${status} ${JSON.stringify(answer)}`)
  }
  const write = async (path: string, body: object): Promise<void> => {
    written.push([path, body])
    await must('POST', path, body)
  }
  await write(`sys/mounts/${mount}`, { type: 'database' })
  await write(`${mount}/config/main`, {
    plugin_name: 'postgresql-database-plugin',
    allowed_roles: '*',
    connection_url: `postgresql://{{username}}:{{password}}@${postgres.host}:${postgres.port}/${postgres.database}?sslmode=disable`,
    username: postgres.user,
    password: postgres.password,
  })
  return {
    async role(times) {
      const name = `role-${randomUUID().slice(0, 8)}`
      await write(`${mount}/roles/${name}`, {
        db_name: 'main',
        creation_statements: [CREATE],
        ...times,
      })
      return `${mount}/creds/${name}`
    },
    changeRole: (path, times) =>
      must('POST', path.replace('/creds/', '/roles/'), { db_name: 'main', creation_statements: [CREATE], ...times }),
    async staticRole(times) {
      const name = `account_${randomUUID().slice(0, 8)}`
      await runOnPostgres(postgres, `CREATE ROLE "${name}" LOGIN`)
      await write(`${mount}/static-roles/${name}`, { db_name: 'main', username: name, ...times })
      return { path: `${mount}/static-creds/${name}`, rotate: () => must('POST', `${mount}/rotate-role/${name}`) }
    },
    async leases(path) {
      const { status, body } = await admin.request('LIST', `sys/leases/lookup/${path}`)
      return status === 404 ? 0 : (body as { data: { keys: string[] } }).data.keys.length
    },
    async restore() {
      for (const [path, body] of written) await must('POST', path, body)
    },
    async remove() {
      await must('PUT', `sys/leases/revoke-force/${mount}`)
      await must('DELETE', `sys/mounts/${mount}`)
    },
  }
}
