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
import type { SftpClient } from './client.ts'
import { type SftpConfig, type SftpConfigInput, sftpConfigSchema } from './config.ts'
import { urlInvalid } from './errors.ts'

/** Files over SSH. */
export const sftp: ConnectorDefinition<'sftp', SftpConfigInput, SftpConfig, SftpClient, FilesQuery> = {
  protocol: 'sftp',
  prefix: 'SFTP',
  packageName: '@common-handlers/sftp',
  configSchema: sftpConfigSchema,
  fromUrl: (url) => {
    if (!['', '/'].includes(url.pathname)) throw urlInvalid()
    return {
      ...addressIn(url),
      ...loginIn(url),
    }
  },
  ...handlerLife(createClient),
  fetch: (client, query, context) => fetchFiles('sftp', client, query, context),
}

/** A client of a server; the same configuration gives the same client, and `close()` gives it back. */
export function getSftpClient(config?: ConfigArgument<typeof sftp>, options?: ConnectionOptions): Promise<Leased<SftpClient>> {
  return getConnection(sftp, config, options)
}

/** Tries to reach a server, to know its key, to log in and to list. */
export function testSftpConnection(
  config?: ConfigArgument<typeof sftp>,
  options?: Parameters<typeof testConnection>[2],
): Promise<CheckResult> {
  return testConnection(sftp, config, options)
}

/** The driver is loaded with the first client. */
async function createClient(config: SftpConfig): Promise<SftpClient> {
  const { SftpClient } = await import('./client.ts')
  return new SftpClient(config)
}
