import {
  addressIn,
  type ConfigArgument,
  type ConnectionOptions,
  type ConnectorDefinition,
  getConnection,
  handlerLife,
  type Leased,
  loginIn,
  testConnection,
} from '@common-handlers/connections'
import { fetchFiles, type FilesQuery } from '@common-handlers/connections/files'
import type { CheckResult } from '@common-handlers/core'
import type { FtpClient } from './client.ts'
import { type FtpConfig, type FtpConfigInput, ftpConfigSchema } from './config.ts'
import { urlInvalid } from './errors.ts'

/** Files over FTP, with TLS and without. */
export const ftp: ConnectorDefinition<'ftp', FtpConfigInput, FtpConfig, FtpClient, FilesQuery> = {
  protocol: 'ftp',
  prefix: 'FTP',
  packageName: '@common-handlers/ftp',
  configSchema: ftpConfigSchema,
  fromUrl: (url) => {
    if (!['', '/'].includes(url.pathname)) throw urlInvalid()
    return {
      ...(url.protocol === 'ftps:' ? { tls: 'implicit' } : {}),
      ...addressIn(url),
      ...loginIn(url),
    }
  },
  ...handlerLife(createClient),
  fetch: (client, query, context) => fetchFiles('ftp', client, query, context),
}

/** A client of a server; the same configuration gives the same client, and `close()` gives it back. */
export function getFtpClient(config?: ConfigArgument<typeof ftp>, options?: ConnectionOptions): Promise<Leased<FtpClient>> {
  return getConnection(ftp, config, options)
}

/** Tries to reach a server, to trust its certificate, to log in and to list. */
export function testFtpConnection(
  config?: ConfigArgument<typeof ftp>,
  options?: Parameters<typeof testConnection>[2],
): Promise<CheckResult> {
  return testConnection(ftp, config, options)
}

/** The driver is loaded with the first client. */
async function createClient(config: FtpConfig): Promise<FtpClient> {
  const { FtpClient } = await import('./client.ts')
  return new FtpClient(config)
}
