import { type Secret, secret } from '@common-handlers/core'
import { z } from 'zod'

/** What a caller writes. Only `host` is required. */
export interface Neo4jConfigInput {
  readonly host: string
  /** Default 7687. */
  readonly port?: number | undefined
  /** Default: the home database of the user. */
  readonly database?: string | undefined
  readonly username?: string | undefined
  readonly password?: string | Secret | undefined
  /** A bearer token of single sign-on, in place of user and password. */
  readonly token?: string | Secret | undefined
  /** True to ask the host which servers of its cluster to speak to (`neo4j://`), false to speak to the host itself (`bolt://`). Default false. */
  readonly routing?: boolean | undefined
  readonly tls?: boolean | undefined
  /** Certificates to trust instead of those that Node knows, as PEM. */
  readonly ca?: string | undefined
  /** Records that one answer of the server holds at most. Default 1 000. */
  readonly fetchSize?: number | undefined
  /** Connections at once, at most. Default 10. */
  readonly maxConnections?: number | undefined
  /** Limit of getting a connection and logging in, in milliseconds. Default 10 000. */
  readonly connectTimeoutMs?: number | undefined
  /** How long the server may be silent while a record is waited for, in milliseconds. Default 300 000. */
  readonly answerTimeoutMs?: number | undefined
  /** Tries in all. Default 3. */
  readonly attempts?: number | undefined
  /** Time for all tries and waits together, in milliseconds. Default 30 000. */
  readonly retryBudgetMs?: number | undefined
}

/** The configuration after parsing. */
export interface Neo4jConfig extends Neo4jConfigInput {
  readonly port: number
  readonly password?: Secret | undefined
  readonly token?: Secret | undefined
  readonly routing: boolean
  readonly tls: boolean
  readonly fetchSize: number
  readonly maxConnections: number
  readonly connectTimeoutMs: number
  readonly answerTimeoutMs: number
  readonly attempts: number
  readonly retryBudgetMs: number
}

const positive = (): z.ZodInt => z.int().positive()

/** One strict schema for all options. */
export const neo4jConfigSchema: z.ZodType<Neo4jConfig, Neo4jConfigInput> = z
  .strictObject({
    host: z
      .string()
      .regex(/^([^\s/@:[\]]+|\[?[0-9a-f.]*(:[0-9a-f.]*){2,}\]?)$/i, 'expected a name or an address, without a port')
      .describe('name or address of the server'),
    port: positive().max(65_535).default(7_687).describe('its Bolt port'),
    database: z.string().min(1).optional().describe('the database; the home database of the user by default'),
    username: z.string().min(1).optional().describe('user to log in as, with `password`; none by default'),
    password: secret().optional().describe('of the user; none by default'),
    token: secret().optional().describe('bearer token of single sign-on, in place of user and password; none by default'),
    routing: z
      .boolean()
      .default(false)
      .describe('ask the host which servers of its cluster to speak to (`neo4j://`) instead of speaking to it alone (`bolt://`)'),
    tls: z.boolean().default(false).describe('speak TLS'),
    ca: z.string().min(1).optional().describe('PEM of the certificates to trust; those of Node by default'),
    fetchSize: positive().default(1_000).describe('records that one answer of the server holds at most'),
    maxConnections: positive().default(10).describe('connections at once, at most'),
    connectTimeoutMs: positive().default(10_000).describe('limit of getting a connection and logging in, in milliseconds'),
    answerTimeoutMs: positive()
      .default(300_000)
      .describe('how long the server may be silent while a record is waited for, in milliseconds'),
    attempts: positive().default(3).describe('tries in all'),
    retryBudgetMs: positive().default(30_000).describe('time for all tries and waits together, in milliseconds'),
  })
  .superRefine((config, context) => {
    const issue = (path: string, message: string): void => context.addIssue({ code: 'custom', path: [path], message })
    if ((config.username === undefined) !== (config.password === undefined)) {
      issue(config.username === undefined ? 'username' : 'password', 'username and password are given together')
    }
    if (config.token !== undefined && config.username !== undefined) issue('token', 'takes the place of username and password')
    if (config.ca !== undefined && !config.tls) issue('ca', 'has no meaning without tls')
  })
