import { ConfigError, type RetryPolicy, type Secret, secret } from '@common-handlers/core'
import { z } from 'zod'

const MIB = 1024 * 1024

/** The smallest part S3 takes, but for the last one (Amazon S3 User Guide, "Multipart upload limits"). */
export const MIN_PART_SIZE: number = 5 * MIB
/** The largest part S3 takes. */
export const MAX_PART_SIZE: number = 5 * 1024 * MIB

/** Options as a user writes them. */
export interface S3ConfigInput {
  /** The bucket that all keys are in. */
  bucket: string
  /** Stands before every key, with a slash between. Default: none. */
  prefix?: string | undefined
  /** `http(s)://host:port` of a server other than AWS. Default: AWS, by region. */
  endpoint?: string | undefined
  /** Default `us-east-1`. */
  region?: string | undefined
  /** With `secretAccessKey`. Default: the AWS chain (environment, profile, web identity, container, instance). */
  accessKeyId?: string | undefined
  secretAccessKey?: string | Secret | undefined
  /** For temporary credentials. */
  sessionToken?: string | Secret | undefined
  /** `host/bucket/key` instead of `bucket.host/key`. Default: true where an endpoint is given. */
  forcePathStyle?: boolean | undefined
  /** Bytes of one part of an upload, 5 MiB to 5 GiB; a body up to this size is one request. Default 8 MiB. */
  partSize?: number | undefined
  /** Parts sent or ranges read at the same time. A transfer holds `partSize × concurrency` bytes. Default 4. */
  concurrency?: number | undefined
  /** Time for a connection to be made, in milliseconds. Default 5 000. */
  connectTimeoutMs?: number | undefined
  /** Time for one try of one request, in milliseconds. Default 60 000. */
  timeoutMs?: number | undefined
  /** The longest silence in the middle of a body, either way, in milliseconds. Default 30 000. */
  stallTimeoutMs?: number | undefined
  /** How often and how long one request is tried. Default 100 tries within 60 s, waits of up to 5 s. */
  retry?: { [K in keyof RetryPolicy]?: RetryPolicy[K] | undefined } | undefined
  /**
   * `when-supported` sends a checksum with every upload and verifies whole objects that are read; `when-required` leaves
   * out what S3-compatible servers may not know. Default `when-required`.
   */
  checksums?: 'when-required' | 'when-supported' | undefined
  /** With `when-supported`. Default `crc32`. */
  checksumAlgorithm?: 'crc32' | 'sha256' | undefined
  /** Where the bytes of a body are part of the signature. Default `http`: TLS protects them elsewhere. */
  signPayload?: 'http' | 'always' | 'never' | undefined
}

/** Options with defaults filled in. */
export interface S3Config {
  readonly bucket: string
  readonly prefix: string
  readonly endpoint?: string | undefined
  readonly region: string
  readonly accessKeyId?: string | undefined
  readonly secretAccessKey?: Secret | undefined
  readonly sessionToken?: Secret | undefined
  readonly forcePathStyle?: boolean | undefined
  readonly partSize: number
  readonly concurrency: number
  readonly connectTimeoutMs: number
  readonly timeoutMs: number
  readonly stallTimeoutMs: number
  readonly retry: RetryPolicy
  readonly checksums: 'when-required' | 'when-supported'
  readonly checksumAlgorithm: 'crc32' | 'sha256'
  readonly signPayload: 'http' | 'always' | 'never'
}

const milliseconds = z.int().positive()

// The number of tries is high and the budget decides: a refused connection fails in a millisecond, and an outage of
// ten seconds must not use up the tries.
const retrySchema = z.strictObject({
  attempts: z.int().positive().default(100).describe('Tries of one request, the first included'),
  budgetMs: milliseconds.default(60_000).describe('Time for all tries of one request and the waits between, in milliseconds'),
  baseDelayMs: milliseconds.default(100).describe('Upper bound of the first wait, in milliseconds; it doubles with each try'),
  maxDelayMs: milliseconds.default(5_000).describe('No wait is longer, in milliseconds, unless the server asks for it'),
})

/** One strict schema for all options but the logger. Apps embed it in their own. */
export const s3ConfigSchema: z.ZodType<S3Config, S3ConfigInput> = z
  .strictObject({
    bucket: z.string().min(1).describe('Bucket that all keys are in'),
    prefix: z
      .string()
      .default('')
      .transform((prefix) => prefix.replace(/^\/+|\/+$/g, ''))
      .describe('Stands before every key, with a slash between'),
    endpoint: z
      .url({ protocol: /^https?$/ })
      .refine((url) => !/:\/\/[^/]*@/.test(url), 'credentials do not belong in the endpoint')
      .optional()
      .describe('http(s)://host:port of a server other than AWS'),
    region: z.string().min(1).default('us-east-1').describe('Region that requests are signed for'),
    accessKeyId: z.string().min(1).optional().describe('With secretAccessKey; without both, the AWS default chain'),
    secretAccessKey: secret().optional().describe('With accessKeyId'),
    sessionToken: secret().optional().describe('For temporary credentials'),
    forcePathStyle: z.boolean().optional().describe('host/bucket/key instead of bucket.host/key; default: true with an endpoint'),
    partSize: z
      .int()
      .min(MIN_PART_SIZE)
      .max(MAX_PART_SIZE)
      .default(8 * MIB)
      .describe('Bytes of one part of an upload; a body up to this size is one request'),
    concurrency: z
      .int()
      .min(1)
      .max(64)
      .default(4)
      .describe('Parts of one upload sent, or ranges of one download read, at the same time'),
    connectTimeoutMs: milliseconds.default(5_000).describe('Time for a connection to be made, in milliseconds'),
    timeoutMs: milliseconds.default(60_000).describe('Time for one try of one request, in milliseconds'),
    stallTimeoutMs: milliseconds.default(30_000).describe('Longest silence in the middle of a body, in milliseconds'),
    retry: retrySchema.prefault({}).describe('How often and how long one request is tried'),
    checksums: z
      .enum(['when-required', 'when-supported'])
      .default('when-required')
      .describe(
        'when-supported: a checksum with every upload, whole objects verified when they are read; some servers refuse it',
      ),
    checksumAlgorithm: z.enum(['crc32', 'sha256']).default('crc32').describe('Checksum of uploads, with when-supported'),
    signPayload: z
      .enum(['http', 'always', 'never'])
      .default('http')
      .describe('Where the bytes of a body are part of the signature: without TLS only, always, never'),
  })
  .refine((config) => (config.accessKeyId === undefined) === (config.secretAccessKey === undefined), {
    message: 'accessKeyId and secretAccessKey belong together: give both or neither',
    path: ['secretAccessKey'],
  })

/** Parses options. @throws ConfigError `S3_CONFIG_INVALID` */
export function parseConfig(input: S3ConfigInput): S3Config {
  const parsed = s3ConfigSchema.safeParse(input)
  if (parsed.success) return parsed.data
  const problems = parsed.error.issues.map((issue) => `${issue.path.map(String).join('.') || '(top)'}: ${issue.message}`)
  throw new ConfigError(`the options of S3Handler cannot be used:\n${problems.map((line) => `  ${line}`).join('\n')}`, {
    code: 'S3_CONFIG_INVALID',
    context: { problems },
  })
}

/** Environment variables by name, as in `process.env`. */
export type Variables = Readonly<Record<string, string | undefined>>

/**
 * What the variables of the AWS tools say: `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` (neither with
 * `AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=true`), `AWS_REGION` or `AWS_DEFAULT_REGION`, and, without `AWS_PROFILE`, the keys
 * `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`. An empty variable is an unset one.
 */
export function s3ConfigFromEnvironment(variables: Variables = process.env): Partial<S3ConfigInput> {
  const first = (...names: string[]): string | undefined => names.map((name) => variables[name]).find((value) => value)
  const ignored = variables['AWS_IGNORE_CONFIGURED_ENDPOINT_URLS']?.toLowerCase() === 'true'
  const [accessKeyId, secretAccessKey] = [first('AWS_ACCESS_KEY_ID'), first('AWS_SECRET_ACCESS_KEY')]
  // The chain looks at a profile first; where there is half a pair, it goes on to the next source.
  const whole = first('AWS_PROFILE') === undefined && accessKeyId !== undefined && secretAccessKey !== undefined
  return givenOnly({
    endpoint: ignored ? undefined : first('AWS_ENDPOINT_URL_S3', 'AWS_ENDPOINT_URL'),
    region: first('AWS_REGION', 'AWS_DEFAULT_REGION'),
    ...(whole ? { accessKeyId, secretAccessKey, sessionToken: first('AWS_SESSION_TOKEN') } : {}),
  })
}

/** Without the keys that are undefined, which would hide those of another object. */
export function givenOnly<T extends object>(value: T): T {
  return Object.fromEntries(Object.entries(value).filter(([, inner]) => inner !== undefined)) as T
}
