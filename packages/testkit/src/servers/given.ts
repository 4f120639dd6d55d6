import { addressVariable, addressVariables } from '../config.ts'
import { ServerUnavailable } from '../errors.ts'
import { postgresAddress, type Addresses, type S3Address, type SeaweedfsAddress, type ServerKind } from './addresses.ts'

/** The address of a server that runs already, from the `TEST_*` variables; nothing if its first variable is not set. */
export function givenAddress<K extends ServerKind>(kind: K): Addresses[K] | undefined {
  if (addressVariable(addressVariables[kind][0]) === undefined) return undefined
  return readers[kind]()
}

const readers: { readonly [K in ServerKind]: () => Addresses[K] } = {
  postgres() {
    const url = new URL(required('postgres', 'TEST_POSTGRES_URL'))
    return postgresAddress({
      host: url.hostname,
      port: url.port === '' ? 5432 : Number(url.port),
      user: decodeURIComponent(url.username),
      password: decodeURIComponent(url.password),
      database: decodeURIComponent(url.pathname.slice(1)) || 'postgres',
    })
  },
  openbao() {
    return {
      kind: 'openbao',
      address: required('openbao', 'TEST_VAULT_ADDR').replace(/\/+$/, ''),
      rootToken: required('openbao', 'TEST_VAULT_TOKEN'),
      unsealKey: addressVariable('TEST_VAULT_UNSEAL_KEY') ?? '',
    }
  },
  engine() {
    const name = required('engine', 'TEST_ENGINE')
    if (name !== 'docker' && name !== 'podman') throw new ServerUnavailable('engine', 'TEST_ENGINE is docker or podman')
    const buildOptions = name === 'docker' ? ['--progress=plain'] : ['--format', 'docker', '--timestamp', '0']
    return { kind: 'engine', name, command: [name], environment: {}, buildOptions, limitedRun: ['run'] }
  },
  s3: () => seaweedfs('s3'),
  versitygw: () => ({ kind: 'versitygw', ...store('versitygw', 'TEST_VERSITYGW') }),
  trino() {
    return {
      kind: 'trino',
      url: required('trino', 'TEST_TRINO_URL').replace(/\/+$/, ''),
      user: addressVariable('TEST_TRINO_USER') ?? 'test',
      catalog: addressVariable('TEST_TRINO_CATALOG') ?? 'lake',
      stagingCatalog: addressVariable('TEST_TRINO_STAGING_CATALOG') ?? 'stage',
      jdbcCatalog: addressVariable('TEST_TRINO_JDBC_CATALOG') ?? null,
      s3: seaweedfs('trino'),
    }
  },
}

function seaweedfs(kind: ServerKind): SeaweedfsAddress {
  return {
    kind: 's3',
    ...store(kind, 'TEST_S3'),
    tableBucket: addressVariable('TEST_S3_TABLE_BUCKET') ?? 'warehouse',
    catalogUri: required(kind, 'TEST_S3_CATALOG_URI'),
  }
}

function store(kind: ServerKind, prefix: 'TEST_S3' | 'TEST_VERSITYGW'): Omit<S3Address, 'kind'> {
  return {
    endpoint: required(kind, `${prefix}_ENDPOINT`).replace(/\/+$/, ''),
    region: addressVariable(`${prefix}_REGION`) ?? 'us-east-1',
    accessKeyId: required(kind, `${prefix}_ACCESS_KEY_ID`),
    secretAccessKey: required(kind, `${prefix}_SECRET_ACCESS_KEY`),
    bucket: addressVariable(`${prefix}_BUCKET`) ?? 'lake',
  }
}

function required(kind: ServerKind, variable: string): string {
  const value = addressVariable(variable)
  if (value === undefined) {
    const [first] = addressVariables[kind]
    throw new ServerUnavailable(kind, `${first} is set, but ${variable}, which belongs to it, is not`)
  }
  return value
}
