import { type Secret, secret } from '@common-handlers/core'
import { z } from 'zod'

/** What a caller writes. `host`, `username` and `password` are required. */
export interface NewprotocolConfigInput {
  readonly host: string
  /** Default 7070. */
  readonly port?: number | undefined
  readonly username: string
  readonly password: string | Secret
  /** How long a server may take for each answer, in milliseconds. Default 10 000. */
  readonly answerTimeoutMs?: number | undefined
}

/** The configuration after parsing. */
export interface NewprotocolConfig extends NewprotocolConfigInput {
  readonly port: number
  readonly password: Secret
  readonly answerTimeoutMs: number
}

/** One strict schema for all options. */
export const newprotocolConfigSchema: z.ZodType<NewprotocolConfig, NewprotocolConfigInput> = z.strictObject({
  host: z.string().min(1).describe('name or address of the server'),
  port: z.int().min(1).max(65_535).default(7070).describe('its port'),
  // It is one word of a line.
  username: z
    .string()
    .regex(/^[^\s]+$/, 'expected no blanks')
    .describe('who logs in'),
  password: secret().describe('of the user'),
  answerTimeoutMs: z.int().positive().default(10_000).describe('how long the server may take for each answer, in milliseconds'),
})
