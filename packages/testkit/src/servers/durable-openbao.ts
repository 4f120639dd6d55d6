import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { openbaoBinary } from '../provision/artifacts.ts'
import { openbaoAdmin, type OpenBaoServer } from './openbao.ts'
import { onFreePorts } from './ports.ts'
import { inTemporaryFolder, launch } from './server-process.ts'

export interface DurableOpenBaoOptions {
  /** PEM. With it the server listens a second time, by TLS, at `tlsAddress`, and asks its clients for a certificate. */
  readonly tls?: { readonly certificate: string; readonly key: string } | undefined
}

export interface DurableOpenBaoServer extends OpenBaoServer {
  readonly tlsAddress: string
}

/**
 * Starts an OpenBao server that keeps its data on disk (raft), KV version 2 at `secret/`. `up()` unseals it again: tokens,
 * leases and secrets are what they were before. It needs the binary; there is none of these in a container.
 */
export async function startDurableOpenBao(options: DurableOpenBaoOptions = {}): Promise<DurableOpenBaoServer> {
  const command = await openbaoBinary()
  const { tls } = options
  return await inTemporaryFolder('openbao', (folder) =>
    onFreePorts(3, async ([port = 0, clusterPort = 0, tlsPort = 0]) => {
      const address = `http://127.0.0.1:${port}`
      const data = join(folder, 'data')
      await mkdir(data)
      const listeners: object[] = [{ tcp: { address: `127.0.0.1:${port}`, tls_disable: true } }]
      if (tls !== undefined) {
        const [certificate, key] = [join(folder, 'certificate.pem'), join(folder, 'key.pem')]
        await writeFile(certificate, tls.certificate)
        await writeFile(key, tls.key)
        listeners.push({ tcp: { address: `127.0.0.1:${tlsPort}`, tls_cert_file: certificate, tls_key_file: key } })
      }
      const configuration = {
        storage: { raft: { path: data, node_id: 'one', performance_multiplier: 1 } },
        listener: listeners,
        api_addr: address,
        cluster_addr: `http://127.0.0.1:${clusterPort}`,
        ui: false,
      }
      const file = join(folder, 'openbao.json')
      await writeFile(file, JSON.stringify(configuration))
      let rootToken = ''
      let unsealKey = ''
      const control = await launch({
        name: 'openbao',
        folder,
        command,
        args: ['server', `-config=${file}`],
        // It writes into its home; addresses and tokens meant for other tests are not its business.
        env: { HOME: folder, BAO_ADDR: undefined, VAULT_ADDR: undefined, BAO_TOKEN: undefined, VAULT_TOKEN: undefined },
        stopSignal: 'SIGTERM',
        startTimeoutMs: 60_000,
        async ready(signal) {
          if (rootToken === '') {
            const made = await put(address, 'sys/init', { secret_shares: 1, secret_threshold: 1 }, signal)
            const keys = made as { readonly root_token: string; readonly keys_base64: readonly [string] }
            rootToken = keys.root_token
            unsealKey = keys.keys_base64[0]
          }
          const health = await fetch(`${address}/v1/sys/health`, { signal })
          await health.arrayBuffer()
          if (health.status === 503) await put(address, 'sys/unseal', { key: unsealKey }, signal)
          if (health.status !== 200) throw new Error(`/v1/sys/health answered ${health.status}`)
        },
      })
      const server: OpenBaoServer = { kind: 'openbao', address, rootToken, unsealKey, ...control }
      await openbaoAdmin(server).mount('secret', 'kv', { version: '2' })
      return { ...server, tlsAddress: `https://127.0.0.1:${tlsPort}` }
    }),
  )
}

async function put(address: string, path: string, body: object, signal: AbortSignal): Promise<unknown> {
  const response = await fetch(`${address}/v1/${path}`, { method: 'PUT', body: JSON.stringify(body), signal })
  const text = await response.text()
  if (!response.ok) throw new Error(`/v1/${path} answered ${response.status}: ${text}`)
  return JSON.parse(text)
}
