import { randomUUID } from 'node:crypto'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { versitygwBinary } from '../provision/artifacts.ts'
import type { VersitygwAddress } from './addresses.ts'
import { startContainer } from './container.ts'
import { onFreePorts } from './ports.ts'
import { bucketReady, createBucket } from './s3-request.ts'
import { inTemporaryFolder, launch, type ServerControl } from './server-process.ts'
import { fromBinaryOrContainer } from './source.ts'

export type VersitygwServer = VersitygwAddress &
  ServerControl & {
    /** Its buckets are folders here, its objects files; not known of a container. */
    readonly dataFolder?: string
  }

const image = 'versity/versitygw:v1.8.0'
const bucket = 'lake'

/** Starts versitygw on loopback over a folder, with the bucket `lake`: a second, independent S3 server. */
export async function startVersitygw(): Promise<VersitygwServer> {
  return await fromBinaryOrContainer('versitygw', fromBinary, inContainer)
}

async function fromBinary(): Promise<VersitygwServer> {
  const command = await versitygwBinary()
  return await inTemporaryFolder('versitygw', (folder) =>
    onFreePorts(1, async ([port = 0]) => {
      const address = addressOf(`http://127.0.0.1:${port}`)
      const data = join(folder, 'data')
      await mkdir(data, { recursive: true })
      const control = await launch({
        name: 'versitygw',
        folder,
        command,
        args: ['--port', `127.0.0.1:${port}`, '--region', address.region, '--quiet', 'posix', data],
        env: { HOME: folder, ROOT_ACCESS_KEY: address.accessKeyId, ROOT_SECRET_KEY: address.secretAccessKey },
        stopSignal: 'SIGTERM',
        startTimeoutMs: 30_000,
        ready: (signal) => ready(address, signal),
      })
      return { ...address, ...control, dataFolder: data }
    }),
  )
}

async function inContainer(): Promise<VersitygwServer> {
  const address = addressOf('')
  const container = await startContainer({
    image,
    ports: [7070],
    command: ['--port', ':7070', '--region', address.region, 'posix', '/tmp'],
    environment: { ROOT_ACCESS_KEY: address.accessKeyId, ROOT_SECRET_KEY: address.secretAccessKey },
    startTimeoutMs: 120_000,
  })
  const server = { ...address, endpoint: `http://${container.host}:${container.port(7070)}`, ...container.control }
  await createBucket(server, bucket)
  return server
}

function addressOf(endpoint: string): VersitygwAddress {
  const keys = { accessKeyId: 'testkit', secretAccessKey: randomUUID() }
  return { kind: 'versitygw', endpoint, region: 'us-east-1', ...keys, bucket }
}

async function ready(address: VersitygwAddress, signal: AbortSignal): Promise<void> {
  // It is there at the first start only after somebody has made it.
  await bucketReady(address, signal).catch(() => createBucket(address, bucket))
}
