import { randomUUID } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ServerUnavailable } from '../errors.ts'
import { javaProgram, neo4j, quickStart } from '../provision/java-servers.ts'
import { serverCertificate } from './certificates.ts'
import { onFreePorts } from './ports.ts'
import { inTemporaryFolder, launch, type ServerControl } from './server-process.ts'
import { propertiesText } from './trino-settings.ts'

/** Where clients connect. */
export type Neo4jServer = ServerControl & {
  /** `bolt://…`, without the account. */
  readonly url: string
  /** Its HTTP API. */
  readonly httpUrl: string
  readonly user: string
  readonly password: string
  /** The authority of its certificate: the port of `url` speaks TLS to those who ask for it. */
  readonly caCert: string
}

/**
 * Starts Neo4j (the community edition) on loopback with the database `neo4j`.
 * @throws ServerUnavailable if it cannot be fetched, ServerStartError if it does not start
 */
export async function startNeo4j(): Promise<Neo4jServer> {
  const { java, classPath } = await javaProgram(neo4j, 25).catch((error: Error) => {
    throw new ServerUnavailable('neo4j', error.message, { cause: error })
  })
  return await inTemporaryFolder('neo4j', (folder) =>
    onFreePorts(2, async ([port = 0, httpPort = 0]) => {
      const configuration = join(folder, 'conf')
      await mkdir(configuration, { recursive: true })
      const { keyFile, certificateFile, caCert } = await serverCertificate(folder)
      const settings = {
        'server.default_listen_address': '127.0.0.1',
        'server.bolt.listen_address': `127.0.0.1:${port}`,
        'server.bolt.tls_level': 'OPTIONAL',
        'dbms.ssl.policy.bolt.enabled': 'true',
        'dbms.ssl.policy.bolt.base_directory': folder,
        'dbms.ssl.policy.bolt.private_key': keyFile,
        'dbms.ssl.policy.bolt.public_certificate': certificateFile,
        'dbms.ssl.policy.bolt.client_auth': 'NONE',
        'server.http.listen_address': `127.0.0.1:${httpPort}`,
        'server.memory.heap.max_size': '512m',
        'server.memory.pagecache.size': '32m',
        'dbms.usage_report.enabled': 'false',
      }
      await writeFile(join(configuration, 'neo4j.conf'), propertiesText(settings))
      const httpUrl = `http://127.0.0.1:${httpPort}`
      const control = await launch({
        name: 'neo4j',
        folder,
        command: java.command,
        args: [
          '-Xmx512m',
          ...quickStart,
          ...opened,
          '-cp',
          classPath,
          'Main',
          `--home-dir=${folder}`,
          `--config-dir=${configuration}`,
          '--console-mode',
        ],
        stopSignal: 'SIGTERM',
        startTimeoutMs: 180_000,
        async ready(signal) {
          const response = await fetch(`${httpUrl}/db/neo4j/query/v2`, { method: 'POST', signal })
          await response.arrayBuffer()
          // It asks for a login when the database is there.
          if (response.status !== 401) throw new Error(`it answered ${response.status}`)
        },
      })
      const server = { url: `bolt://127.0.0.1:${port}`, httpUrl, user: 'neo4j', password: delivered, caCert, ...control }
      // With the one that it is delivered with, one may do nothing but change it.
      const password = randomUUID()
      const change = 'ALTER CURRENT USER SET PASSWORD FROM $old TO $new'
      try {
        await runOnNeo4j(server, change, { parameters: { old: delivered, new: password }, database: 'system' })
      } catch (error) {
        await server.stop()
        throw error
      }
      return { ...server, password }
    }),
  )
}

const delivered = 'neo4j'

const opened = [
  ...['nio', 'io'].map((name) => `--add-opens=java.base/java.${name}=ALL-UNNAMED`),
  '--add-opens=java.base/sun.nio.ch=ALL-UNNAMED',
  '--add-opens=java.base/java.util.concurrent=ALL-UNNAMED',
  '--enable-native-access=ALL-UNNAMED',
  '--sun-misc-unsafe-memory-access=allow',
]

/** Runs a statement by the HTTP API; returns the rows. @throws with the code of the server */
export async function runOnNeo4j(
  server: Pick<Neo4jServer, 'httpUrl' | 'user' | 'password'>,
  statement: string,
  options: { readonly parameters?: Readonly<Record<string, unknown>>; readonly database?: string } = {},
): Promise<readonly (readonly unknown[])[]> {
  const response = await fetch(`${server.httpUrl}/db/${options.database ?? 'neo4j'}/query/v2`, {
    method: 'POST',
    headers: {
      authorization: `Basic ${btoa(`${server.user}:${server.password}`)}`,
      'content-type': 'application/json',
    },
    body: JSON.stringify({ statement, parameters: options.parameters ?? {} }),
  })
  const answer = (await response.json()) as {
    readonly data?: { readonly values: readonly (readonly unknown[])[] }
    readonly errors?: readonly { readonly code: string; readonly message: string }[]
  }
  const [problem] = answer.errors ?? []
  if (problem !== undefined) throw new Error(`${problem.code}: ${problem.message}`)
  return answer.data?.values ?? []
}
