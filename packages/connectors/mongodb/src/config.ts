import { type Secret, secret } from '@common-handlers/core'
import { z } from 'zod'

/** What a caller writes. `hosts` and `database` are required. */
export interface MongodbConfigInput {
  /** `host:port` of each seed; port 27017 where there is none. */
  readonly hosts: readonly string[]
  /** True where `hosts` is the one name whose SRV records name the servers (`mongodb+srv://`, Atlas). Default false. */
  readonly srv?: boolean | undefined
  readonly database: string
  readonly username?: string | undefined
  readonly password?: string | Secret | undefined
  /** The database that knows the user. Default `admin`. */
  readonly authSource?: string | undefined
  readonly replicaSet?: string | undefined
  /** True to speak to the one host given, whatever it says of its replica set: for tunnels and containers. Default false. */
  readonly directConnection?: boolean | undefined
  readonly tls?: boolean | undefined
  /** Certificates to trust instead of those that Node knows, as PEM. */
  readonly ca?: string | undefined
  readonly readPreference?: MongodbReadPreference | undefined
  /** Documents that one answer of the server holds at most. Default 1 000. */
  readonly batchSize?: number | undefined
  /** Connections at once, at most. Default 10. */
  readonly maxConnections?: number | undefined
  /** Limit of finding a server and logging in, in milliseconds. Default 10 000. */
  readonly connectTimeoutMs?: number | undefined
  /** How long the server may be silent while an answer is waited for, in milliseconds. Default 300 000. */
  readonly answerTimeoutMs?: number | undefined
  /** Tries in all. Default 3. */
  readonly attempts?: number | undefined
  /** Time for all tries and waits together, in milliseconds. Default 30 000. */
  readonly retryBudgetMs?: number | undefined
}

export type MongodbReadPreference = 'primary' | 'primaryPreferred' | 'secondary' | 'secondaryPreferred' | 'nearest'

/** The configuration after parsing. */
export interface MongodbConfig extends MongodbConfigInput {
  readonly password?: Secret | undefined
  readonly srv: boolean
  readonly authSource: string
  readonly directConnection: boolean
  readonly tls: boolean
  readonly readPreference: MongodbReadPreference
  readonly batchSize: number
  readonly maxConnections: number
  readonly connectTimeoutMs: number
  readonly answerTimeoutMs: number
  readonly attempts: number
  readonly retryBudgetMs: number
}

const positive = (): z.ZodInt => z.int().positive()
const host = (): z.ZodType<string, string> =>
  z.string().regex(/^([^\s/@:,[\]]+|\[[0-9a-f:.]+\])(:\d{1,5})?$/i, 'expected host or host:port')

/** One strict schema for all options. */
export const mongodbConfigSchema: z.ZodType<MongodbConfig, MongodbConfigInput> = z
  .strictObject({
    hosts: z.array(host()).min(1).describe('`host:port` of each seed; port 27017 where there is none'),
    srv: z.boolean().default(false).describe('`hosts` is the one name whose SRV records name the servers'),
    database: z.string().min(1).describe('the database to read from'),
    username: z.string().min(1).optional().describe('user to log in as, with `password`; none by default'),
    password: secret().optional().describe('of the user; none by default'),
    authSource: z.string().min(1).default('admin').describe('the database that knows the user'),
    replicaSet: z.string().min(1).optional().describe('name that the servers must give their replica set; any by default'),
    directConnection: z
      .boolean()
      .default(false)
      .describe('speak to the one host given, whatever it says of its replica set: for tunnels and containers'),
    tls: z.boolean().default(false).describe('speak TLS'),
    ca: z.string().min(1).optional().describe('PEM of the certificates to trust; those of Node by default'),
    readPreference: z
      .enum(['primary', 'primaryPreferred', 'secondary', 'secondaryPreferred', 'nearest'])
      .default('primary')
      .describe('which member of a replica set is read from'),
    batchSize: positive().default(1_000).describe('documents that one answer of the server holds at most'),
    maxConnections: positive().default(10).describe('connections at once, at most'),
    connectTimeoutMs: positive().default(10_000).describe('limit of finding a server and logging in, in milliseconds'),
    answerTimeoutMs: positive()
      .default(300_000)
      .describe('how long the server may be silent while an answer is waited for, in milliseconds'),
    attempts: positive().default(3).describe('tries in all'),
    retryBudgetMs: positive().default(30_000).describe('time for all tries and waits together, in milliseconds'),
  })
  .superRefine((config, context) => {
    const issue = (path: string, message: string): void => context.addIssue({ code: 'custom', path: [path], message })
    if ((config.username === undefined) !== (config.password === undefined)) {
      issue(config.username === undefined ? 'username' : 'password', 'username and password are given together')
    }
    if (config.ca !== undefined && !config.tls) issue('ca', 'has no meaning without tls')
    if (config.srv && (config.hosts.length > 1 || /:\d+$/.test(config.hosts[0] ?? '')))
      issue('srv', 'is for one name without a port')
    if (config.directConnection && config.hosts.length > 1) issue('directConnection', 'is for one host')
  })
