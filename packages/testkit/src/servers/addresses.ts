// Plain data, so that an address can travel between processes as JSON.

export interface PostgresAddress {
  readonly kind: 'postgres'
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string
  readonly database: string
  /** All of the above as one `postgres://` address. */
  readonly url: string
}

/** OpenBao, or any server with the Vault API. */
export interface OpenBaoAddress {
  readonly kind: 'openbao'
  /** For example `http://127.0.0.1:8200`, without a slash at the end. */
  readonly address: string
  readonly rootToken: string
  /** To unseal it again in a test that seals it. Known for launched servers; empty for a given one that did not say. */
  readonly unsealKey: string
}

/** An S3 server. Buckets are addressed by path. */
export interface S3Address {
  readonly kind: 's3' | 'versitygw'
  readonly endpoint: string
  readonly region: string
  readonly accessKeyId: string
  readonly secretAccessKey: string
  /** A bucket that exists. */
  readonly bucket: string
}

/** SeaweedFS: S3 and an Iceberg REST catalog whose client credential is `accessKeyId:secretAccessKey`. */
export interface SeaweedfsAddress extends S3Address {
  readonly kind: 's3'
  readonly tableBucket: string
  readonly catalogUri: string
}

export interface VersitygwAddress extends S3Address {
  readonly kind: 'versitygw'
}

export interface TrinoAddress {
  readonly kind: 'trino'
  /** For example `http://127.0.0.1:8080`, without a slash at the end. */
  readonly url: string
  readonly user: string
  /** Iceberg on the REST catalog of {@link s3}. */
  readonly catalog: string
  /** Hive with a file metastore, for external tables over files. */
  readonly stagingCatalog: string
  /** Iceberg with its catalog in PostgreSQL, where there is one. */
  readonly jdbcCatalog: string | null
  /** The store its catalogs are on. */
  readonly s3: SeaweedfsAddress
}

/** What builds and runs images. Its command line is Docker's, whichever it is. */
export interface EngineAddress {
  readonly kind: 'engine'
  readonly name: 'docker' | 'podman'
  /** What stands before `build`, `run` and the rest. */
  readonly command: readonly string[]
  readonly environment: Readonly<Record<string, string>>
  /** What `build` takes besides. */
  readonly buildOptions: readonly string[]
  /** What `run` is where the container's memory is limited. */
  readonly limitedRun: readonly string[]
}

/** The address record of each kind of server. */
export interface Addresses {
  readonly postgres: PostgresAddress
  readonly openbao: OpenBaoAddress
  readonly s3: SeaweedfsAddress
  readonly versitygw: VersitygwAddress
  readonly trino: TrinoAddress
  readonly engine: EngineAddress
}

export type ServerKind = keyof Addresses

/** Puts a PostgreSQL address together. */
export function postgresAddress(parts: Omit<PostgresAddress, 'kind' | 'url'>): PostgresAddress {
  const { user, password, host, port, database } = parts
  const account = `${encodeURIComponent(user)}:${encodeURIComponent(password)}`
  return { kind: 'postgres', ...parts, url: `postgres://${account}@${host}:${port}/${encodeURIComponent(database)}` }
}
