import { ConfigError, ConflictError } from '@common-handlers/core'
import { type EnqueueInto, firstColumn } from './enqueue.ts'
import { outboxNames } from './names.ts'

export interface InboxOptions {
  /** On whose behalf messages are processed: each consumer processes a message once. */
  readonly consumer: string
  /** Default `outbox`. */
  readonly schema?: string | undefined
  /** A message that comes again later than this is new. Longer than the sender tries again. Default 7 days. */
  readonly keepMs?: number | undefined
}

/** What became of a message. */
export type Processed<T> =
  | { readonly duplicate: false; readonly value: T }
  /** It was processed before, and is not processed now. */
  | { readonly duplicate: true; readonly processedAt: Date }

const WEEK_MS = 7 * 86_400_000
const SWEEP_ROWS = 10_000

/** The receiving end of messages that may come more than once: each is processed once, in the transaction that says so. */
export class Inbox {
  readonly #consumer: string
  readonly #schema: string
  readonly #keepMs: number

  /** @throws ConfigError `OUTBOX_CONFIG_INVALID` */
  constructor(options: InboxOptions) {
    const { consumer, keepMs } = options
    if (consumer === '') throw new ConfigError('an inbox needs a consumer', { code: 'OUTBOX_CONFIG_INVALID' })
    this.#consumer = consumer
    this.#keepMs = keepMs ?? WEEK_MS
    this.#schema = outboxNames(options.schema ?? 'outbox').schema
  }

  /**
   * Runs `work` unless the message has been processed. What it writes in the caller's transaction and the note that the
   * message is processed are one commit. Of two that come at the same time the second waits until the first has
   * committed (a duplicate) or rolled back (its turn). When it throws, roll back.
   * @throws ConflictError `OUTBOX_NO_TRANSACTION` where the caller has begun none
   */
  async processOnce<T>(transaction: EnqueueInto, messageId: string, work: () => Promise<T> | T): Promise<Processed<T>> {
    const schema = this.#schema
    const key = [this.#consumer, messageId]
    const inserted = await firstColumn(
      transaction,
      `INSERT INTO ${schema}.inbox AS i (consumer, message_id, expires_at) VALUES ($1, $2, clock_timestamp() + $3::interval)
        ON CONFLICT (consumer, message_id) DO UPDATE SET processed_at = clock_timestamp(), expires_at = excluded.expires_at
          WHERE i.expires_at <= clock_timestamp()
        RETURNING 1`,
      [...key, `${this.#keepMs} milliseconds`],
    )
    // Whether it is new or locked by now: a transaction that goes on has an id.
    const [found] = await firstColumn(
      transaction,
      `SELECT json_build_object('open', pg_current_xact_id_if_assigned() IS NOT NULL, 'at', extract(epoch FROM processed_at) * 1000)::text
        FROM ${schema}.inbox WHERE consumer = $1 AND message_id = $2`,
      key,
    )
    const { open, at } = JSON.parse((found as string | undefined) ?? '{}') as { readonly open?: boolean; readonly at?: number }
    if (open !== true) {
      if (inserted.length > 0)
        await firstColumn(transaction, `DELETE FROM ${schema}.inbox WHERE consumer = $1 AND message_id = $2`, key)
      throw new ConflictError('processOnce is called in a transaction: the note and the work are one commit', {
        code: 'OUTBOX_NO_TRANSACTION',
      })
    }
    if (inserted.length === 0) return { duplicate: true, processedAt: new Date(at ?? 0) }
    return { duplicate: false, value: await work() }
  }

  /** Forgets messages of all consumers whose time has passed, and says how many there were. Call it now and then. */
  async sweep(connection: EnqueueInto): Promise<number> {
    let count = 0
    for (;;) {
      const [swept] = await firstColumn(connection, `SELECT ${this.#schema}.sweep_inbox($1)::text`, [SWEEP_ROWS])
      count += Number(swept)
      if (Number(swept) < SWEEP_ROWS) return count
    }
  }
}
