export { type FtpConfig, type FtpConfigInput, ftpConfigSchema, type FtpTls } from './config.ts'
export { getFtpClient, ftp, testFtpConnection } from './connector.ts'
export type { FtpClient } from './client.ts'
