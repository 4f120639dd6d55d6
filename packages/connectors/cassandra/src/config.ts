import { type Secret, secret } from '@common-handlers/core'
import { z } from 'zod'

/** What a caller writes. `hosts`, `localDataCenter` and `keyspace` are required. */
export interface CassandraConfigInput {
  /** `host:port` of nodes to begin with; port 9042 where there is none. */
  readonly hosts: readonly string[]
  /** The data centre whose nodes are asked. */
  readonly localDataCenter: string
  readonly keyspace: string
  readonly username?: string | undefined
  readonly password?: string | Secret | undefined
  readonly tls?: boolean | undefined
  /** Certificates to trust instead of those that Node knows, as PEM. */
  readonly ca?: string | undefined
  readonly consistency?: CassandraConsistency | undefined
  /** Rows that one page holds at most. Default 1 000. */
  readonly fetchSize?: number | undefined
  /** Ranges of tokens that a scan reads at once. Default 4. */
  readonly concurrency?: number | undefined
  /** Limit of one connection to a node, in milliseconds. Default 5 000. */
  readonly connectTimeoutMs?: number | undefined
  /** How long a node may take for one page, in milliseconds. Default 15 000. */
  readonly answerTimeoutMs?: number | undefined
  /** Tries in all. Default 3. */
  readonly attempts?: number | undefined
  /** Time for all tries and waits together, in milliseconds. Default 30 000. */
  readonly retryBudgetMs?: number | undefined
}

export type CassandraConsistency = 'ONE' | 'LOCAL_ONE' | 'QUORUM' | 'LOCAL_QUORUM' | 'ALL'

/** The configuration after parsing. */
export interface CassandraConfig extends CassandraConfigInput {
  readonly password?: Secret | undefined
  readonly tls: boolean
  readonly consistency: CassandraConsistency
  readonly fetchSize: number
  readonly concurrency: number
  readonly connectTimeoutMs: number
  readonly answerTimeoutMs: number
  readonly attempts: number
  readonly retryBudgetMs: number
}

const positive = (): z.ZodInt => z.int().positive()
const host = (): z.ZodType<string, string> =>
  z.string().regex(/^([^\s/@:,[\]]+|\[[0-9a-f:.]+\])(:\d{1,5})?$/i, 'expected host or host:port')

/** One strict schema for all options. */
export const cassandraConfigSchema: z.ZodType<CassandraConfig, CassandraConfigInput> = z
  .strictObject({
    hosts: z.array(host()).min(1).describe('`host:port` of nodes to begin with; port 9042 where there is none'),
    localDataCenter: z.string().min(1).describe('the data centre whose nodes are asked, such as `datacenter1`'),
    keyspace: z.string().min(1).describe('the keyspace to read from'),
    username: z.string().min(1).optional().describe('role to log in as, with `password`; none by default'),
    password: secret().optional().describe('of the role; none by default'),
    tls: z.boolean().default(false).describe('speak TLS'),
    ca: z.string().min(1).optional().describe('PEM of the certificates to trust; those of Node by default'),
    consistency: z
      .enum(['ONE', 'LOCAL_ONE', 'QUORUM', 'LOCAL_QUORUM', 'ALL'])
      .default('LOCAL_QUORUM')
      .describe('how many replicas must answer'),
    fetchSize: positive().default(1_000).describe('rows that one page holds at most'),
    concurrency: positive().default(4).describe('ranges of tokens that a scan reads at once'),
    connectTimeoutMs: positive().default(5_000).describe('limit of one connection to a node, in milliseconds'),
    answerTimeoutMs: positive().default(15_000).describe('how long a node may take for one page, in milliseconds'),
    attempts: positive().default(3).describe('tries of one page in all'),
    retryBudgetMs: positive().default(30_000).describe('time for all tries of one page and the waits together, in milliseconds'),
  })
  .superRefine((config, context) => {
    const issue = (path: string, message: string): void => context.addIssue({ code: 'custom', path: [path], message })
    if ((config.username === undefined) !== (config.password === undefined)) {
      issue(config.username === undefined ? 'username' : 'password', 'username and password are given together')
    }
    if (config.ca !== undefined && !config.tls) issue('ca', 'has no meaning without tls')
  })
