import {
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
import type { WebdavClient } from './client.ts'
import { type WebdavConfig, type WebdavConfigInput, webdavConfigSchema } from './config.ts'
import { urlInvalid } from './errors.ts'

/** Files over WebDAV. */
export const webdav: ConnectorDefinition<'webdav', WebdavConfigInput, WebdavConfig, WebdavClient, FilesQuery> = {
  protocol: 'webdav',
  prefix: 'WEBDAV',
  packageName: '@common-handlers/webdav',
  configSchema: webdavConfigSchema,
  fromUrl: (url) => {
    if (!/^https?:$/.test(url.protocol)) throw urlInvalid()
    const base = new URL(url)
    base.username = ''
    base.password = ''
    return {
      baseUrl: base.href,
      ...loginIn(url),
    }
  },
  ...handlerLife(createClient),
  fetch: (client, query, context) => fetchFiles('webdav', client, query, context),
}

/** A client of a server; the same configuration gives the same client, and `close()` gives it back. */
export function getWebdavClient(
  config?: ConfigArgument<typeof webdav>,
  options?: ConnectionOptions,
): Promise<Leased<WebdavClient>> {
  return getConnection(webdav, config, options)
}

/** Tries to reach a server, to log in and to list. */
export function testWebdavConnection(
  config?: ConfigArgument<typeof webdav>,
  options?: Parameters<typeof testConnection>[2],
): Promise<CheckResult> {
  return testConnection(webdav, config, options)
}

/** The driver is loaded with the first client. */
async function createClient(config: WebdavConfig): Promise<WebdavClient> {
  const { WebdavClient } = await import('./client.ts')
  return new WebdavClient(config)
}
