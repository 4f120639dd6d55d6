import { homedir } from 'node:os'
import { join } from 'node:path'

/** What the environment says to testkit. The variables are listed in the README; no other file reads `process.env`. */
export interface TestkitEnvironment {
  /** Where fetched servers are kept. */
  readonly cacheDirectory: string
  /** False: use what is on the machine or in the cache, fetch nothing. */
  readonly fetch: boolean
  /** In continuous integration a missing server is a failure, elsewhere its suites are skipped. */
  readonly ci: boolean
  /** Servers start in containers, whatever the machine has. */
  readonly containers: boolean
  /** The network mode of these containers, where it is not the engine's own. */
  readonly containerNetwork: string | undefined
  readonly javaHome: string | undefined
  readonly path: readonly string[]
}

type Variables = Readonly<Record<string, string | undefined>>

export function readEnvironment(variables: Variables = process.env): TestkitEnvironment {
  return {
    cacheDirectory: text(variables, 'COMMON_HANDLERS_CACHE') ?? join(homedir(), '.cache', 'common-handlers'),
    fetch: text(variables, 'COMMON_HANDLERS_FETCH') !== 'off',
    ci: flag(variables, 'CI'),
    containers: flag(variables, 'TESTCONTAINERS'),
    containerNetwork: text(variables, 'TEST_CONTAINER_NETWORK'),
    javaHome: text(variables, 'JAVA_HOME'),
    path: (variables['PATH'] ?? '').split(':').filter((folder) => folder !== ''),
  }
}

/** The variables that name servers which are already running. */
export const addressVariables = {
  postgres: ['TEST_POSTGRES_URL'],
  openbao: ['TEST_VAULT_ADDR', 'TEST_VAULT_TOKEN', 'TEST_VAULT_UNSEAL_KEY'],
  s3: [
    'TEST_S3_ENDPOINT',
    'TEST_S3_REGION',
    'TEST_S3_ACCESS_KEY_ID',
    'TEST_S3_SECRET_ACCESS_KEY',
    'TEST_S3_BUCKET',
    'TEST_S3_TABLE_BUCKET',
    'TEST_S3_CATALOG_URI',
  ],
  versitygw: [
    'TEST_VERSITYGW_ENDPOINT',
    'TEST_VERSITYGW_REGION',
    'TEST_VERSITYGW_ACCESS_KEY_ID',
    'TEST_VERSITYGW_SECRET_ACCESS_KEY',
    'TEST_VERSITYGW_BUCKET',
  ],
  engine: ['TEST_ENGINE'],
  trino: ['TEST_TRINO_URL', 'TEST_TRINO_USER', 'TEST_TRINO_CATALOG', 'TEST_TRINO_STAGING_CATALOG', 'TEST_TRINO_JDBC_CATALOG'],
} as const

/** The value of one of the {@link addressVariables}; an empty one counts as not set. */
export function addressVariable(name: string, variables: Variables = process.env): string | undefined {
  return text(variables, name)
}

/**
 * The environment handed to a server or a package client: the caller's own with the given changes.
 * Node's own options are taken out, or a test runner's flags would reach unrelated programs.
 */
export function childEnvironment(changes: Variables = {}, variables: Variables = process.env): Record<string, string> {
  const environment: Record<string, string> = {}
  for (const [name, value] of Object.entries({ ...variables, NODE_OPTIONS: undefined, ...changes })) {
    if (value !== undefined) environment[name] = value
  }
  return environment
}

function flag(variables: Variables, name: string): boolean {
  return !['', '0', 'false'].includes((variables[name] ?? '').toLowerCase())
}

function text(variables: Variables, name: string): string | undefined {
  const value = variables[name]
  return value === undefined || value === '' ? undefined : value
}
