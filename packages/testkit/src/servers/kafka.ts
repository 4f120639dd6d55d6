import { randomBytes, randomUUID } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import type { Duplex } from 'node:stream'
import { join } from 'node:path'
import { ServerUnavailable } from '../errors.ts'
import { javaProgram, kafka, quickStart } from '../provision/java-servers.ts'
import { runClient } from '../provision/package-clients.ts'
import { serverCertificate } from './certificates.ts'
import { onFreePorts } from './ports.ts'
import { inTemporaryFolder, launch, type ServerControl } from './server-process.ts'
import { propertiesText } from './trino-settings.ts'

export interface KafkaOptions {
  /** Listeners with SASL, with TLS and with both, too. */
  readonly secure?: boolean
  /** More lines of server.properties, for example `{ 'num.partitions': '3' }`. */
  readonly settings?: Readonly<Record<string, string>>
}

/** The listeners that ask who one is. */
export interface KafkaSecurity {
  /** SASL without TLS: PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512 with `user` and `password`. */
  readonly saslBroker: string
  /** TLS, and nobody is asked. */
  readonly tlsBroker: string
  /** SASL over TLS. */
  readonly saslTlsBroker: string
  readonly user: string
  readonly password: string
  /** PEM of the authority behind the broker's certificate. */
  readonly caCert: string
}

export type KafkaServer = ServerControl & {
  /** `host:port` of the listener without TLS and login. */
  readonly broker: string
  /** Undefined unless `secure` was asked for. */
  readonly security: KafkaSecurity | undefined
}

/**
 * Starts one Kafka node, broker and controller (KRaft), on loopback.
 * @throws ServerUnavailable if it cannot be fetched, ServerStartError if it does not start
 */
export async function startKafka(options: KafkaOptions = {}): Promise<KafkaServer> {
  const { java, classPath } = await javaProgram(kafka, 17).catch((error: Error) => {
    throw new ServerUnavailable('kafka', error.message, { cause: error })
  })
  return await inTemporaryFolder('kafka', async (folder) => {
    const secured = options.secure === true ? { password: randomUUID(), ...(await serverCertificate(folder)) } : undefined
    return await onFreePorts(5, async ([port = 0, controllerPort = 0, saslPort = 0, tlsPort = 0, saslTlsPort = 0]) => {
      const at = (number: number): string => `127.0.0.1:${number}`
      const listeners = [
        `PLAINTEXT://${at(port)}`,
        ...(secured === undefined
          ? []
          : [`SASL_PLAINTEXT://${at(saslPort)}`, `SSL://${at(tlsPort)}`, `SASL_SSL://${at(saslTlsPort)}`]),
      ]
      const file = join(folder, 'server.properties')
      const settings = {
        ...oneNode,
        'log.dirs': join(folder, 'data'),
        'controller.quorum.voters': `1@${at(controllerPort)}`,
        listeners: [...listeners, `CONTROLLER://${at(controllerPort)}`].join(','),
        'advertised.listeners': listeners.join(','),
        ...(secured === undefined ? {} : securitySettings(secured.password, secured.bothFile)),
        ...options.settings,
      }
      await writeFile(file, propertiesText(settings), { mode: 0o600 })
      const run = ['-Xmx384m', ...quickStart, '-cp', classPath]
      const users = secured === undefined ? [] : ['256', '512'].flatMap((bits) => scramUser(bits, secured.password))
      const cluster = randomBytes(16).toString('base64url').replace(/^-/, 'A')
      await runClient(java.command, [
        ...run,
        'kafka.tools.StorageTool',
        'format',
        '--ignore-formatted',
        '-t',
        cluster,
        '-c',
        file,
        ...users,
      ])
      const control = await launch({
        name: 'kafka',
        folder,
        command: java.command,
        args: [...run, '-Dorg.slf4j.simpleLogger.defaultLogLevel=info', 'kafka.Kafka', file],
        stopSignal: 'SIGTERM',
        startTimeoutMs: 120_000,
        ready: (signal) => ready(port, signal),
      })
      const security = secured && {
        saslBroker: at(saslPort),
        tlsBroker: at(tlsPort),
        saslTlsBroker: at(saslTlsPort),
        user,
        password: secured.password,
        caCert: secured.caCert,
      }
      return { broker: at(port), security, ...control }
    })
  })
}

const user = 'test'

const oneNode = {
  'process.roles': 'broker,controller',
  'node.id': '1',
  'controller.listener.names': 'CONTROLLER',
  'listener.security.protocol.map':
    'CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL',
  // One of each, as there is one node, and nobody waits for a second consumer.
  'offsets.topic.replication.factor': '1',
  'offsets.topic.num.partitions': '1',
  'transaction.state.log.replication.factor': '1',
  'transaction.state.log.min.isr': '1',
  'transaction.state.log.num.partitions': '1',
  'share.coordinator.state.topic.replication.factor': '1',
  'share.coordinator.state.topic.min.isr': '1',
  'group.initial.rebalance.delay.ms': '0',
}

function securitySettings(password: string, keystore: string): Record<string, string> {
  const modules = 'org.apache.kafka.common.security'
  const logins = ['sasl_plaintext', 'sasl_ssl'].flatMap((listener) => [
    [`${listener}.plain`, `${modules}.plain.PlainLoginModule required user_${user}="${password}";`],
    [`${listener}.scram-sha-256`, `${modules}.scram.ScramLoginModule required;`],
    [`${listener}.scram-sha-512`, `${modules}.scram.ScramLoginModule required;`],
  ])
  return {
    'sasl.enabled.mechanisms': 'PLAIN,SCRAM-SHA-256,SCRAM-SHA-512',
    'ssl.keystore.type': 'PEM',
    'ssl.keystore.location': keystore,
    ...Object.fromEntries(logins.map(([name, login]) => [`listener.name.${name}.sasl.jaas.config`, login])),
  }
}

function scramUser(bits: string, password: string): string[] {
  return ['--add-scram', `SCRAM-SHA-${bits}=[name=${user},password=${password}]`]
}

/** Ready when it tells clients of itself: the broker is in its own metadata. */
async function ready(port: number, signal: AbortSignal): Promise<void> {
  const socket = connect({ host: '127.0.0.1', port, signal })
  try {
    const noTopics = Buffer.alloc(4)
    const answer = await kafkaRequest(socket, { key: 3, version: 1 }, noTopics)
    if (answer.readInt32BE(0) !== 1) throw new Error('its metadata name no broker')
  } finally {
    socket.destroy()
  }
}

/** One request by Kafka's protocol, with a header of version 1; returns the answer without its header. */
export async function kafkaRequest(
  socket: Duplex,
  api: { readonly key: number; readonly version: number },
  body: Buffer,
): Promise<Buffer> {
  const header = Buffer.alloc(14)
  header.writeInt32BE(10 + body.length, 0)
  header.writeInt16BE(api.key, 4)
  header.writeInt16BE(api.version, 6)
  header.writeInt32BE(7, 8)
  // No client id.
  header.writeInt16BE(-1, 12)
  socket.write(Buffer.concat([header, body]))
  let answer = Buffer.alloc(0)
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    answer = Buffer.concat([answer, chunk as Buffer])
    if (answer.length >= 8 && answer.length >= 4 + answer.readInt32BE(0)) return answer.subarray(8)
  }
  throw new Error('the connection ended without an answer')
}
