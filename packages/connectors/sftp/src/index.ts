export { type SftpConfig, type SftpConfigInput, sftpConfigSchema } from './config.ts'
export { getSftpClient, sftp, testSftpConnection } from './connector.ts'
export type { SftpClient } from './client.ts'
