import { mkdir, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { ServerUnavailable } from '../errors.ts'
import { cassandra, javaProgram, quickStart } from '../provision/java-servers.ts'
import { runClient } from '../provision/package-clients.ts'
import { serverCertificate } from './certificates.ts'
import { onFreePorts } from './ports.ts'
import { inTemporaryFolder, launch, type ServerControl } from './server-process.ts'

/** Where clients connect. */
export type CassandraServer = ServerControl & {
  readonly host: string
  readonly port: number
  /** The one data centre, which drivers ask for. */
  readonly datacenter: string
  /** The superuser that Cassandra begins with. */
  readonly user: string
  readonly password: string
  /** The authority of its certificate: the port speaks TLS to those who ask for it. */
  readonly caCert: string
}

/**
 * Starts one Cassandra node on loopback, which asks for a password.
 * @throws ServerUnavailable if it cannot be fetched, ServerStartError if it does not start
 */
export async function startCassandra(): Promise<CassandraServer> {
  const { java, classPath } = await javaProgram(cassandra, 17, 17).catch((error: Error) => {
    throw new ServerUnavailable('cassandra', error.message, { cause: error })
  })
  return await inTemporaryFolder('cassandra', (folder) =>
    onFreePorts(3, async ([port = 0, storagePort = 0, jmxPort = 0]) => {
      const at = (name: string): string => join(folder, name)
      await mkdir(at('conf'), { recursive: true })
      const { keyFile, certificateFile, caCert } = await serverCertificate(folder)
      const store = ['-inkey', keyFile, '-in', certificateFile, '-out', at('server.p12'), '-passout', `pass:${password}`]
      await runClient('openssl', ['pkcs12', '-export', ...store])
      // JSON is YAML.
      const settings = {
        cluster_name: 'test',
        num_tokens: 1,
        allocate_tokens_for_local_replication_factor: 1,
        partitioner: 'org.apache.cassandra.dht.Murmur3Partitioner',
        data_file_directories: [at('data')],
        commitlog_directory: at('commitlog'),
        saved_caches_directory: at('caches'),
        hints_directory: at('hints'),
        cdc_raw_directory: at('cdc'),
        commitlog_sync: 'periodic',
        commitlog_sync_period: '10000ms',
        endpoint_snitch: 'SimpleSnitch',
        seed_provider: [
          {
            class_name: 'org.apache.cassandra.locator.SimpleSeedProvider',
            parameters: [{ seeds: `127.0.0.1:${storagePort}` }],
          },
        ],
        listen_address: '127.0.0.1',
        storage_port: storagePort,
        rpc_address: '127.0.0.1',
        native_transport_port: port,
        start_native_transport: true,
        client_encryption_options: {
          enabled: true,
          optional: true,
          keystore: at('server.p12'),
          keystore_password: password,
          store_type: 'PKCS12',
        },
        authenticator: 'PasswordAuthenticator',
        authorizer: 'CassandraAuthorizer',
      }
      await writeFile(at('conf/cassandra.yaml'), JSON.stringify(settings))
      await writeFile(at('conf/logback.xml'), logging)
      const control = await launch({
        name: 'cassandra',
        folder,
        command: java.command,
        args: [
          '-Xms512m',
          '-Xmx512m',
          ...quickStart,
          '-Djdk.attach.allowAttachSelf=true',
          ...opened,
          `-Dcassandra.config=file://${at('conf/cassandra.yaml')}`,
          `-Dlogback.configurationFile=${at('conf/logback.xml')}`,
          `-Dcassandra.storagedir=${folder}`,
          `-Dcassandra.jmx.local.port=${jmxPort}`,
          // Nobody else is in the ring, and nobody waits for it.
          '-Dcassandra.skip_wait_for_gossip_to_settle=0',
          '-Dcassandra.ring_delay_ms=100',
          '-Dcassandra.initial_token=0',
          '-Dcassandra.superuser_setup_delay_ms=0',
          '-cp',
          `${at('conf')}:${classPath}`,
          'org.apache.cassandra.service.CassandraDaemon',
        ],
        stopSignal: 'SIGTERM',
        startTimeoutMs: 240_000,
        ready: (signal) => loginToCassandra({ port, user, password }, signal),
      })
      return { host: '127.0.0.1', port, datacenter: 'datacenter1', user, password, caCert, ...control }
    }),
  )
}

const [user, password] = ['cassandra', 'cassandra']

const logging = `<configuration>
<appender name="S" class="ch.qos.logback.core.ConsoleAppender"><encoder><pattern>%date %-5level %msg%n</pattern></encoder></appender>
<root level="WARN"><appender-ref ref="S"/></root>
</configuration>
`

/** As its own start script does for Java 17. */
const opened = [
  ...'jdk.internal.misc jdk.internal.ref sun.nio.ch java.lang.ref java.lang.reflect'
    .split(' ')
    .map((name) => `--add-exports=java.base/${name}=ALL-UNNAMED`),
  '--add-exports=java.management.rmi/com.sun.jmx.remote.internal.rmi=ALL-UNNAMED',
  ...'registry server transport.tcp'.split(' ').map((name) => `--add-exports=java.rmi/sun.rmi.${name}=ALL-UNNAMED`),
  '--add-exports=java.sql/java.sql=ALL-UNNAMED',
  '--add-exports=jdk.unsupported/sun.misc=ALL-UNNAMED',
  ...[
    ...'lang lang.module lang.reflect io math net nio util util.concurrent util.concurrent.atomic'
      .split(' ')
      .map((name) => `java.${name}`),
    ...'loader ref reflect math module util.jar'.split(' ').map((name) => `jdk.internal.${name}`),
    'sun.nio.ch',
  ].map((name) => `--add-opens=java.base/${name}=ALL-UNNAMED`),
  '--add-opens=jdk.management/com.sun.management.internal=ALL-UNNAMED',
  '--add-opens=java.rmi/sun.rmi.transport.tcp=ALL-UNNAMED',
]

/** Logs in by the native protocol, version 4. @throws with the message of the server */
export async function loginToCassandra(
  account: { readonly port: number; readonly user: string; readonly password: string },
  signal: AbortSignal,
): Promise<void> {
  const socket = connect({ host: '127.0.0.1', port: account.port, signal })
  const ask = async (opcode: number, body: Buffer): Promise<{ opcode: number; body: Buffer }> => {
    const header = Buffer.from([4, 0, 0, 1, opcode, 0, 0, 0, 0])
    header.writeInt32BE(body.length, 5)
    socket.write(Buffer.concat([header, body]))
    let answer = Buffer.alloc(0)
    for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
      answer = Buffer.concat([answer, chunk as Buffer])
      if (answer.length >= 9 && answer.length >= 9 + answer.readInt32BE(5)) {
        return { opcode: answer[4] ?? 0, body: answer.subarray(9) }
      }
    }
    throw new Error('the connection ended without an answer')
  }
  try {
    const startup = await ask(1, Buffer.from('\0\u0001\0\u000bCQL_VERSION\0\u00053.0.0'))
    if (startup.opcode !== 3) throw new Error(`it answered STARTUP with ${startup.opcode}`)
    const login = Buffer.from(`\0${account.user}\0${account.password}`)
    const length = Buffer.alloc(4)
    length.writeInt32BE(login.length)
    const { opcode, body } = await ask(15, Buffer.concat([length, login]))
    // AUTH_SUCCESS; else an error: its code and its message.
    if (opcode !== 16) throw new Error(body.toString('utf8', 6))
  } finally {
    socket.destroy()
  }
}
