import { ConfigError, type Logger, registerSecretValue } from '@common-handlers/core'
import pg, { type Pool } from 'pg'
import { connectionUrl, type OutboxCliConfig } from './config.ts'

export type { Pool } from 'pg'

/** A pool for one command. Nothing is connected yet. @throws ConfigError `OUTBOX_CLI_URL_INVALID` */
export function openPool(config: OutboxCliConfig, option: unknown, logger: Logger): Pool {
  const url = connectionUrl(config, option)?.expose()
  if (url !== undefined) {
    if (!URL.canParse(url) || !/^postgres(ql)?:/.test(url))
      throw new ConfigError('the address of the database begins with postgres://, such as postgres://localhost:5432/app', {
        code: 'OUTBOX_CLI_URL_INVALID',
      })
    const { password } = new URL(url)
    for (const known of [password, decodeURIComponent(password)]) if (known !== '') registerSecretValue(known)
  }
  const pool = new pg.Pool({
    ...(url === undefined ? {} : { connectionString: url }),
    max: config.connections,
    fallback_application_name: 'outbox',
    connectionTimeoutMillis: 10_000,
  })
  pool.on('error', (error) => logger.debug({ error }, 'a connection that nobody used has ended'))
  return pool
}
