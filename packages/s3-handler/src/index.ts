export {
  MAX_PART_SIZE,
  MIN_PART_SIZE,
  type S3Config,
  s3ConfigFromEnvironment,
  s3ConfigSchema,
  type S3ConfigInput,
} from './config.ts'
export type { S3CopyOptions, S3CopySource } from './copy.ts'
export type { S3CredentialProvider, S3Credentials } from './credentials.ts'
export type { S3Dialect } from './dialect.ts'
export type { S3DownloadOptions } from './download.ts'
export type { FailedDelete, S3Stats } from './driver.ts'
export type { S3Encryption } from './object-headers.ts'
export type { S3Presigned, S3PresignedPost, S3PresignGetOptions, S3PresignPostOptions, S3PresignPutOptions } from './presign.ts'
export type { S3CsvOptions, S3CsvRow, S3LinesOptions, S3TextOptions } from './reading.ts'
export {
  type S3Body,
  type S3CheckOptions,
  type S3CommonPrefix,
  type S3ConditionalWrite,
  type S3DeleteResult,
  type S3GetOptions,
  S3Handler,
  type S3HandlerOptions,
  type S3ListOptions,
  type S3ObjectDetails,
  type S3ObjectInfo,
  type S3PutOptions,
  type S3UnfinishedUpload,
  type S3WrittenObject,
} from './s3-handler.ts'
export type { S3SyncOptions, S3SyncResult, S3SyncStep } from './sync.ts'
export type { S3ObjectVersion, S3Versioning } from './versions.ts'
export type { ResumeOptions, S3File } from './upload.ts'
