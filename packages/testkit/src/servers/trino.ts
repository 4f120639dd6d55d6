import { copyFile, mkdir, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { trinoDistribution } from '../provision/artifacts.ts'
import type { PostgresAddress, SeaweedfsAddress, TrinoAddress } from './addresses.ts'
import { startContainer } from './container.ts'
import { onFreePorts } from './ports.ts'
import { createDatabase, runOnPostgres } from './postgres.ts'
import { startSeaweedfs } from './seaweedfs.ts'
import { inTemporaryFolder, launch, type ServerControl } from './server-process.ts'
import { fromBinaryOrContainer } from './source.ts'
import { securitySettings, type TrinoSecurity } from './trino-security.ts'
import {
  catalogSettings,
  jdbcCatalogTables,
  type Megabytes,
  type Properties,
  propertiesText,
  serverSettings,
  spoolingSettings,
} from './trino-settings.ts'
import { runOnTrino } from './trino-statement.ts'

export interface TrinoOptions {
  /** The store of its catalogs. Not given: a SeaweedFS of its own, which stops with it. */
  readonly s3?: SeaweedfsAddress
  /** Where the catalog `lake_jdbc` keeps its tables, in a new database. Not given: there is no such catalog. */
  readonly postgres?: PostgresAddress
  /** The Java heap; 1024 by default. Loads of millions of rows want 2048. */
  readonly heapMegabytes?: Megabytes
  /** Compile to the full. A start takes longer, a query of millions of rows a third less; by default off. */
  readonly c2?: boolean
  /** Rules of Trino's file-based access control; not given: everybody may do everything. Not for a container. */
  readonly accessRules?: object
  /** HTTPS too, where passwords, JWTs and client certificates are asked for; plain HTTP stays open. Not for a container. */
  readonly secure?: boolean
  /** Files of catalogs that stand in the place of, or beside, those made here. Not for a container. */
  readonly catalogFiles?: readonly string[]
  /** Variables that files of catalogs name as `${ENV:NAME}`. Not for a container. */
  readonly environment?: Readonly<Record<string, string>>
  /** More lines of config.properties, for example `{ 'query.client.timeout': '5s' }`. Not for a container. */
  readonly settings?: Properties
}

export type TrinoServer = TrinoAddress &
  ServerControl & {
    /** How to get in over HTTPS; undefined unless `secure` was asked for. */
    readonly security: TrinoSecurity | undefined
  }

const image = 'trinodb/trino:476'
const catalog = 'lake'
const stagingCatalog = 'stage'
const user = 'test'

/**
 * Starts Trino on loopback with the catalogs `lake` (Iceberg, REST), `stage` (Hive), `tpch` and, given a PostgreSQL
 * server, `lake_jdbc`. Results are spooled for the clients that ask for it (not in a container). It is ready when a real scan has succeeded; `/v1/info` says so seconds too early.
 */
export async function startTrino(options: TrinoOptions = {}): Promise<TrinoServer> {
  // Both are needed, and neither needs the other to be fetched or started.
  const ownStore = options.s3 === undefined ? startSeaweedfs() : undefined
  ownStore?.catch(() => undefined)
  try {
    const server = await fromBinaryOrContainer(
      'trino',
      async () => {
        const distribution = await trinoDistribution()
        const s3 = options.s3 ?? (await ownStore) ?? neverNull()
        return await fromBinary(distribution, { ...options, s3 })
      },
      async () => await inContainer({ ...options, s3: options.s3 ?? (await ownStore) ?? neverNull() }),
    )
    return ownStore === undefined ? server : stoppingToo(server, await ownStore)
  } catch (error) {
    await ownStore?.then(
      (store) => store.stop(),
      () => undefined,
    )
    throw error
  }
}

type Wired = TrinoOptions & { readonly s3: SeaweedfsAddress }

async function fromBinary({ home, java }: Awaited<ReturnType<typeof trinoDistribution>>, options: Wired): Promise<TrinoServer> {
  const heap = options.heapMegabytes ?? 1024
  const jdbc = await jdbcDatabase(options.postgres)
  return await inTemporaryFolder('trino', (folder) =>
    onFreePorts(2, async ([port = 0, httpsPort = 0]) => {
      const address = addressOf(`http://127.0.0.1:${port}`, options)
      // Where the file store looks, from the folder it runs in.
      await writeProperties(join(folder, 'etc', 'catalog'), catalogSettings(options.s3, jdbc))
      for (const file of options.catalogFiles ?? []) await copyFile(file, join(folder, 'etc', 'catalog', basename(file)))
      const secured = options.secure === true ? await securitySettings(join(folder, 'security'), httpsPort) : undefined
      const spooling = spoolingSettings(options.s3)
      await writeProperties(folder, {
        config: {
          ...serverSettings(port, heap),
          ...spooling.config,
          ...secured?.config,
          'plugin.dir': join(home, 'plugin'),
          ...options.settings,
        },
        log: { 'io.trino': 'INFO' },
      })
      await writeProperties(join(folder, 'etc'), {
        'spooling-manager': spooling.manager,
        ...(secured === undefined ? {} : { 'password-authenticator': secured.passwordAuthenticator }),
      })
      if (options.accessRules !== undefined) {
        const rules = join(folder, 'etc', 'rules.json')
        await writeFile(rules, JSON.stringify(options.accessRules))
        await writeProperties(join(folder, 'etc'), {
          'access-control': { 'access-control.name': 'file', 'security.config-file': rules },
        })
      }
      const control = await launch({
        name: 'trino',
        folder,
        command: java.command,
        args: [
          ...(await javaOptions(heap, options.c2 === true)),
          `-Djava.io.tmpdir=${folder}`,
          `-Dconfig=${join(folder, 'config.properties')}`,
          `-Dlog.levels-file=${join(folder, 'log.properties')}`,
          '-cp',
          join(home, 'lib', '*'),
          'io.trino.server.TrinoServer',
        ],
        ...(options.environment === undefined ? {} : { env: options.environment }),
        stopSignal: 'SIGTERM',
        startTimeoutMs: 240_000,
        ready: (signal) => ready(address, signal),
      })
      return { ...address, ...control, security: secured?.security }
    }),
  )
}

async function inContainer(options: Wired): Promise<TrinoServer> {
  const heap = options.heapMegabytes ?? 1024
  const jdbc = await jdbcDatabase(options.postgres)
  const outside = [new URL(options.s3.endpoint), new URL(options.s3.catalogUri)].map((url) => Number(url.port))
  const files = Object.entries(catalogSettings(options.s3, jdbc)).map(([name, properties]) => ({
    // What is loopback for us is another machine for the container.
    content: propertiesText(properties).replaceAll('127.0.0.1', 'host.testcontainers.internal'),
    target: `/etc/trino/catalog/${name}.properties`,
  }))
  const container = await startContainer({
    image,
    ports: [8080],
    command: [],
    environment: { JAVA_TOOL_OPTIONS: `-Xmx${heap}m` },
    files,
    hostPorts: jdbc === undefined ? outside : [...outside, jdbc.port],
    startTimeoutMs: 240_000,
  })
  const address = addressOf(`http://${container.host}:${container.port(8080)}`, options)
  const deadline = performance.now() + 240_000
  for (;;) {
    try {
      await ready(address, AbortSignal.timeout(10_000))
      return { ...address, ...container.control, security: undefined }
    } catch (error) {
      if (performance.now() < deadline) continue
      await container.control.stop()
      throw error
    }
  }
}

function addressOf(url: string, options: Wired): TrinoAddress {
  const jdbcCatalog = options.postgres === undefined ? null : 'lake_jdbc'
  return { kind: 'trino', url, user, catalog, stagingCatalog, jdbcCatalog, s3: onlyAddress(options.s3) }
}

/** A server object may be given where an address is asked for; its functions do not belong into a record. */
function onlyAddress(s3: SeaweedfsAddress): SeaweedfsAddress {
  const { kind, endpoint, region, accessKeyId, secretAccessKey, bucket, tableBucket, catalogUri } = s3
  return { kind, endpoint, region, accessKeyId, secretAccessKey, bucket, tableBucket, catalogUri }
}

async function javaOptions(heap: Megabytes, c2: boolean): Promise<string[]> {
  return [
    `-Xmx${heap}M`,
    '-XX:+UseSerialGC',
    // The first compiler alone: a test server's life is short, and on two cores the second one is what starts slowly.
    ...(c2 ? [] : ['-XX:TieredStopAtLevel=1']),
    '-XX:+ExitOnOutOfMemoryError',
    '-XX:ReservedCodeCacheSize=256M',
    '-XX:+EnableDynamicAgentLoading',
    '-Djdk.attach.allowAttachSelf=true',
    '--enable-native-access=ALL-UNNAMED',
    '--sun-misc-unsafe-memory-access=allow',
    '-Dfile.encoding=UTF-8',
    '-Duser.timezone=UTC',
  ]
}

async function ready(address: TrinoAddress, signal: AbortSignal): Promise<void> {
  await runOnTrino(address, 'SELECT count(*) FROM tpch.tiny.region', { signal })
  await runOnTrino(address, `SHOW SCHEMAS FROM ${address.catalog}`, { signal })
}

async function jdbcDatabase(postgres: PostgresAddress | undefined): Promise<PostgresAddress | undefined> {
  if (postgres === undefined) return undefined
  const database = await createDatabase(postgres, 'iceberg')
  await runOnPostgres(database, jdbcCatalogTables)
  return database
}

async function writeProperties(folder: string, files: Readonly<Record<string, Readonly<Record<string, string>>>>): Promise<void> {
  await mkdir(folder, { recursive: true })
  for (const [name, properties] of Object.entries(files)) {
    await writeFile(join(folder, `${name}.properties`), propertiesText(properties), { mode: 0o600 })
  }
}

function stoppingToo(server: TrinoServer, store: ServerControl): TrinoServer {
  const stop = async (): Promise<void> => {
    await server.stop()
    await store.stop()
  }
  return { ...server, stop, [Symbol.asyncDispose]: stop }
}

function neverNull(): never {
  throw new Error('there is no store')
}
