import { type Secret, secret } from '@common-handlers/core'
import { z } from 'zod'

/** What a caller writes. `host`, `username` and one way to log in are required, and `hostKeys` or `knownHosts`. */
export interface SftpConfigInput {
  readonly host: string
  /** Default 22. */
  readonly port?: number | undefined
  readonly username: string
  /** Also given to a server that asks for it by its own questions (keyboard-interactive). */
  readonly password?: string | Secret | undefined
  /** PEM or OpenSSH's own format; `file:/path` as any value. */
  readonly privateKey?: string | Secret | undefined
  /** Of an encrypted `privateKey`. */
  readonly passphrase?: string | Secret | undefined
  /** The socket of an SSH agent: `env:SSH_AUTH_SOCK`. */
  readonly agent?: string | undefined
  /** Keys by which the server is known: `SHA256:…`, or type and key as in known_hosts. */
  readonly hostKeys?: readonly string[] | undefined
  /** A file that `ssh` keeps: `/home/etl/.ssh/known_hosts`. */
  readonly knownHosts?: string | undefined
  /** How long the server may be silent, in milliseconds. Default 30 000. */
  readonly timeoutMs?: number | undefined
  /** Tries of each step in all. Default 5. */
  readonly attempts?: number | undefined
  /** Time for all tries of a step and the waits between them, in milliseconds. Default 60 000. */
  readonly retryBudgetMs?: number | undefined
}

/** The configuration after parsing. */
export interface SftpConfig extends SftpConfigInput {
  readonly port: number
  readonly password?: Secret | undefined
  readonly privateKey?: Secret | undefined
  readonly passphrase?: Secret | undefined
  readonly hostKeys: readonly string[]
  readonly timeoutMs: number
  readonly attempts: number
  readonly retryBudgetMs: number
}

const hostKey = (): z.ZodType<string, string> =>
  z
    .string()
    .regex(
      /^(SHA256:[A-Za-z0-9+/]{43}=?|(ssh|ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/]+=*)$/,
      'expected SHA256:… or type and key as in known_hosts',
    )

/** One strict schema for all options. */
export const sftpConfigSchema: z.ZodType<SftpConfig, SftpConfigInput> = z
  .strictObject({
    host: z.string().min(1).describe('name or address of the server'),
    port: z.int().min(1).max(65_535).default(22).describe('its port'),
    username: z.string().min(1).describe('who logs in'),
    password: secret().optional().describe('given as such and to a server that asks for it by questions; none by default'),
    privateKey: secret().optional().describe('key in PEM or OpenSSH format, such as `file:/run/secrets/key`; none by default'),
    passphrase: secret().optional().describe('of an encrypted `privateKey`; none by default'),
    agent: z.string().min(1).optional().describe('socket of an SSH agent, such as `env:SSH_AUTH_SOCK`; none by default'),
    hostKeys: z
      .array(hostKey())
      .default([])
      .describe('keys by which the server is known: `SHA256:…`, or type and key as in known_hosts'),
    knownHosts: z.string().min(1).optional().describe('file in the format of `~/.ssh/known_hosts`; none by default'),
    timeoutMs: z.int().positive().default(30_000).describe('how long the server may be silent, in milliseconds'),
    attempts: z.int().positive().default(5).describe('tries of each step: a listing, the next bytes'),
    retryBudgetMs: z
      .int()
      .positive()
      .default(60_000)
      .describe('time for all tries of a step and the waits between, in milliseconds'),
  })
  .superRefine((config, context) => {
    if (config.password === undefined && config.privateKey === undefined && config.agent === undefined) {
      context.addIssue({ code: 'custom', path: ['password'], message: 'give password, privateKey or agent' })
    }
    if (config.passphrase !== undefined && config.privateKey === undefined) {
      context.addIssue({ code: 'custom', path: ['privateKey'], message: 'needed together with passphrase' })
    }
  })
