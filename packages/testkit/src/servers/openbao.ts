import { randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { openbaoBinary } from '../provision/artifacts.ts'
import type { OpenBaoAddress } from './addresses.ts'
import { startContainer } from './container.ts'
import { onFreePorts } from './ports.ts'
import { inTemporaryFolder, launch, type ServerControl } from './server-process.ts'
import { fromBinaryOrContainer } from './source.ts'

export type OpenBaoServer = OpenBaoAddress & ServerControl

const image = 'openbao/openbao:2.7.2'

/**
 * Starts an OpenBao server in dev mode: unsealed, KV version 2 at `secret/`, everything in memory.
 * A restart therefore comes back empty, with the same root token; the unseal key is then a new one (see the log).
 */
export async function startOpenBao(): Promise<OpenBaoServer> {
  return await fromBinaryOrContainer('openbao', fromBinary, inContainer)
}

async function fromBinary(): Promise<OpenBaoServer> {
  const command = await openbaoBinary()
  return await inTemporaryFolder('openbao', (folder) =>
    onFreePorts(1, async ([port = 0]) => {
      const rootToken = `root-${randomUUID()}`
      const address = `http://127.0.0.1:${port}`
      let unsealKey = ''
      const control = await launch({
        name: 'openbao',
        folder,
        command,
        args: [
          'server',
          '-dev',
          '-dev-no-store-token',
          `-dev-root-token-id=${rootToken}`,
          `-dev-listen-address=127.0.0.1:${port}`,
        ],
        // It writes into its home; addresses and tokens meant for other tests are not its business.
        env: { HOME: folder, BAO_ADDR: undefined, VAULT_ADDR: undefined, BAO_TOKEN: undefined, VAULT_TOKEN: undefined },
        stopSignal: 'SIGTERM',
        startTimeoutMs: 30_000,
        async ready(signal) {
          await healthy(address, signal)
          // It answers a moment before it prints its key.
          unsealKey = unsealKeyIn(await readFile(join(folder, 'server.log'), 'utf8'))
          if (unsealKey === '') throw new Error('its log does not show the unseal key yet')
        },
      })
      return { kind: 'openbao', address, rootToken, unsealKey, ...control }
    }),
  )
}

async function inContainer(): Promise<OpenBaoServer> {
  const rootToken = `root-${randomUUID()}`
  const container = await startContainer({
    image,
    ports: [8200],
    command: ['server', '-dev', `-dev-root-token-id=${rootToken}`, '-dev-listen-address=0.0.0.0:8200'],
    startTimeoutMs: 120_000,
  })
  const unsealKey = unsealKeyIn(await container.control.logTail(200))
  const address = `http://${container.host}:${container.port(8200)}`
  return { kind: 'openbao', address, rootToken, unsealKey, ...container.control }
}

function unsealKeyIn(log: string): string {
  return log.match(/^Unseal Key: (\S+)$/m)?.[1] ?? ''
}

async function healthy(address: string, signal: AbortSignal): Promise<void> {
  const response = await fetch(`${address}/v1/sys/health`, { signal })
  await response.arrayBuffer()
  if (response.status !== 200) throw new Error(`/v1/sys/health answered ${response.status}`)
}

/** The answer of the Vault API: its HTTP status and its JSON, `null` where it has none. */
export interface OpenBaoAnswer {
  readonly status: number
  readonly body: unknown
}

/** What tests arrange on an OpenBao server, over plain HTTP and with the root token. */
export interface OpenBaoAdmin {
  /** One request to `/v1/<path>`; any status is an answer. */
  request(method: string, path: string, body?: unknown): Promise<OpenBaoAnswer>
  /** Writes a KV version 2 secret: `putSecret('app', { user: 'a' })` is `secret/data/app`. */
  putSecret(path: string, data: Readonly<Record<string, unknown>>, mount?: string): Promise<void>
  /** Mounts a secrets engine, for example `mount('kv1', 'kv', { version: '1' })`. */
  mount(path: string, type: string, options?: Readonly<Record<string, string>>): Promise<void>
  /** Writes a policy in HCL. */
  writePolicy(name: string, hcl: string): Promise<void>
  /** A token with these policies; `ttl` like `5s`. */
  createToken(options: {
    readonly policies: readonly string[]
    readonly ttl?: string
    readonly renewable?: boolean
    readonly uses?: number
  }): Promise<string>
  /** Switches AppRole on if it is not, and makes a role. */
  createAppRole(
    name: string,
    options: { readonly policies: readonly string[]; readonly tokenTtl?: string; readonly secretIdUses?: number },
  ): Promise<{ readonly roleId: string; readonly secretId: string }>
  seal(): Promise<void>
  unseal(): Promise<void>
}

export function openbaoAdmin(server: OpenBaoAddress): OpenBaoAdmin {
  const request: OpenBaoAdmin['request'] = async (method, path, body) => {
    const response = await fetch(`${server.address}/v1/${path}`, {
      method,
      headers: { 'x-vault-token': server.rootToken },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    const text = await response.text()
    return { status: response.status, body: text === '' ? null : (JSON.parse(text) as unknown) }
  }
  const must = async (method: string, path: string, body?: unknown): Promise<unknown> => {
    const answer = await request(method, path, body)
    if (answer.status >= 300) {
      throw new Error(`OpenBao answered ${answer.status} to ${method} ${path}: ${JSON.stringify(answer.body)}`)
    }
    return answer.body
  }
  return {
    request,
    async putSecret(path, data, mount = 'secret') {
      await must('POST', `${mount}/data/${path}`, { data })
    },
    async mount(path, type, options = {}) {
      await must('POST', `sys/mounts/${path}`, { type, options })
      if (type !== 'kv' || options['version'] !== '2') return
      // It refuses everything with 400 until it has set itself up, a moment later.
      while ((await request('LIST', `${path}/metadata`)).status === 400) await sleep(20)
    },
    async writePolicy(name, hcl) {
      await must('PUT', `sys/policies/acl/${name}`, { policy: hcl })
    },
    async createToken({ policies, ttl, renewable, uses }) {
      const body = await must('POST', 'auth/token/create', { policies, ttl, renewable, num_uses: uses })
      return (body as { auth: { client_token: string } }).auth.client_token
    },
    async createAppRole(name, { policies, tokenTtl, secretIdUses }) {
      // Refused where it is on already, also by another test at the same moment; the next request fails where it is not.
      await request('POST', 'sys/auth/approle', { type: 'approle' })
      const role = { token_policies: policies, token_ttl: tokenTtl, secret_id_num_uses: secretIdUses }
      await must('POST', `auth/approle/role/${name}`, role)
      const id = await must('GET', `auth/approle/role/${name}/role-id`)
      const secret = await must('POST', `auth/approle/role/${name}/secret-id`, {})
      return {
        roleId: (id as { data: { role_id: string } }).data.role_id,
        secretId: (secret as { data: { secret_id: string } }).data.secret_id,
      }
    },
    async seal() {
      await must('PUT', 'sys/seal')
    },
    async unseal() {
      await must('PUT', 'sys/unseal', { key: server.unsealKey })
    },
  }
}
