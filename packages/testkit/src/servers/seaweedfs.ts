import { randomUUID } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { seaweedfsBinary } from '../provision/artifacts.ts'
import type { SeaweedfsAddress } from './addresses.ts'
import { startContainer } from './container.ts'
import { onFreePorts } from './ports.ts'
import { bucketReady } from './s3-request.ts'
import { inTemporaryFolder, launch, type ServerControl } from './server-process.ts'
import { fromBinaryOrContainer } from './source.ts'

export type SeaweedfsServer = SeaweedfsAddress & ServerControl

const image = 'chrislusf/seaweedfs:4.48'
const bucket = 'lake'
const tableBucket = 'warehouse'
/** Where Trino's catalogs keep what is theirs, so that listings of the other bucket show only what a test wrote. */
export const metastoreBucket = 'metastore'

/** Starts SeaweedFS on loopback: S3 with the bucket `lake`, and an Iceberg REST catalog with the table bucket `warehouse`. */
export async function startSeaweedfs(): Promise<SeaweedfsServer> {
  return await fromBinaryOrContainer('s3', fromBinary, inContainer)
}

async function fromBinary(): Promise<SeaweedfsServer> {
  const command = await seaweedfsBinary()
  return await inTemporaryFolder('seaweedfs', (folder) =>
    // Five HTTP ports, a gRPC port for each server of the bundle (it would take HTTP + 10000), one for both of the admin.
    onFreePorts(11, async (ports) => {
      const [s3 = 0, s3Grpc, iceberg = 0, master, masterGrpc, volume, volumeGrpc, filer, filerGrpc, admin, adminGrpc] = ports
      const keys = { accessKeyId: 'testkit', secretAccessKey: randomUUID() }
      const address = addressOf(`http://127.0.0.1:${s3}`, `http://127.0.0.1:${iceberg}`, keys)
      const data = join(folder, 'data')
      await mkdir(data, { recursive: true })
      await writeFile(join(folder, 's3.json'), identities(keys), { mode: 0o600 })
      const control = await launch({
        name: 'seaweedfs',
        folder,
        command,
        args: [
          'mini',
          `-dir=${data}`,
          '-ip=127.0.0.1',
          '-ip.bind=127.0.0.1',
          '-master.telemetry=false',
          '-webdav=false',
          '-admin.ui=false',
          `-s3.port=${s3}`,
          `-s3.port.grpc=${s3Grpc}`,
          `-s3.port.iceberg=${iceberg}`,
          '-s3.port.lance=0',
          `-master.port=${master}`,
          `-master.port.grpc=${masterGrpc}`,
          `-volume.port=${volume}`,
          `-volume.port.grpc=${volumeGrpc}`,
          `-filer.port=${filer}`,
          `-filer.port.grpc=${filerGrpc}`,
          `-admin.port=${admin}`,
          `-admin.port.grpc=${adminGrpc}`,
          `-filer.localSocket=${join(folder, 'filer.sock')}`,
          `-s3.localSocket=${join(folder, 's3.sock')}`,
          `-s3.config=${join(folder, 's3.json')}`,
          `-bucket=${bucket},${metastoreBucket}`,
          `-tableBucket=${tableBucket}`,
        ],
        // Variables with these names would win over the flags above.
        env: { HOME: folder, AWS_ACCESS_KEY_ID: undefined, AWS_SECRET_ACCESS_KEY: undefined, S3_BUCKET: undefined },
        // Its sockets for gRPC have fixed places, and a killed server leaves them behind.
        leftovers: Object.entries({ master: masterGrpc, volume: volumeGrpc, filer: filerGrpc, s3: s3Grpc, admin: adminGrpc }).map(
          ([server, port]) => `/tmp/seaweedfs-${server}-grpc-${port}.sock`,
        ),
        stopSignal: 'SIGTERM',
        startTimeoutMs: 60_000,
        ready: (signal) => ready(address, signal),
      })
      return { ...address, ...control }
    }),
  )
}

async function inContainer(): Promise<SeaweedfsServer> {
  const keys = { accessKeyId: 'testkit', secretAccessKey: randomUUID() }
  const container = await startContainer({
    image,
    ports: [8333, 8181],
    command: [
      'mini',
      '-dir=/data',
      '-master.telemetry=false',
      '-webdav=false',
      '-admin.ui=false',
      '-s3.port.lance=0',
      '-s3.config=/etc/s3.json',
      `-bucket=${bucket},${metastoreBucket}`,
      `-tableBucket=${tableBucket}`,
    ],
    files: [{ content: identities(keys), target: '/etc/s3.json' }],
    startTimeoutMs: 120_000,
  })
  const url = (port: number): string => `http://${container.host}:${container.port(port)}`
  return { ...addressOf(url(8333), url(8181), keys), ...container.control }
}

interface Keys {
  readonly accessKeyId: string
  readonly secretAccessKey: string
}

function addressOf(endpoint: string, catalogUri: string, keys: Keys): SeaweedfsAddress {
  return { kind: 's3', endpoint, region: 'us-east-1', ...keys, bucket, tableBucket, catalogUri }
}

function identities({ accessKeyId: accessKey, secretAccessKey: secretKey }: Keys): string {
  const actions = ['Admin', 'Read', 'Write', 'List', 'Tagging']
  return JSON.stringify({ identities: [{ name: 'testkit', credentials: [{ accessKey, secretKey }], actions }] })
}

async function ready(address: SeaweedfsAddress, signal: AbortSignal): Promise<void> {
  await bucketReady(address, signal)
  const response = await fetch(`${address.catalogUri}/v1/config?warehouse=s3://${address.tableBucket}`, { signal })
  await response.arrayBuffer()
  // 401 is an answer of the catalog too: it asks for a token.
  if (response.status >= 500 || response.status === 404) throw new Error(`the catalog answered ${response.status}`)
}
