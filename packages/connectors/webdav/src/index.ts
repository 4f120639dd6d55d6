export { type WebdavConfig, type WebdavConfigInput, webdavConfigSchema } from './config.ts'
export { getWebdavClient, webdav, testWebdavConnection } from './connector.ts'
export type { WebdavClient } from './client.ts'
