export {
  type AppRoleConfig,
  type AwsConfig,
  type AwsCredentials,
  type CacheConfig,
  type CertificateConfig,
  type JwtConfig,
  type KubernetesConfig,
  parseVaultConfig,
  type RateLimitConfig,
  type UserpassConfig,
  type Variables,
  type VaultConfig,
  vaultConfigFromEnvironment,
  type VaultConfigInput,
  vaultConfigSchema,
  type VaultTlsConfig,
} from './config.ts'
export type { AcquireOptions, Lease, LeasedCredentials, LeaseEvents, LeaseOptions } from './lease.ts'
export type {
  KeyValue,
  KvDeleteOptions,
  KvGetOptions,
  KvListOptions,
  KvSecret,
  KvUpdateOptions,
  KvWriteOptions,
} from './key-value.ts'
export type { KvMetadata, KvMetadataSettings, KvVersion } from './key-value-metadata.ts'
export type { SecretData } from './secret-data.ts'
export type {
  CreateKeyOptions,
  DataKey,
  DecryptItem,
  EncryptItem,
  HashAlgorithm,
  HmacItem,
  HmacOptions,
  RewrapItem,
  SignatureOptions,
  SignItem,
  SignOptions,
  Transit,
  TransitContext,
  TransitData,
  TransitKey,
  VerifyItem,
} from './transit.ts'
export type { RenewTokenOptions, TokenInfo, VaultToken } from './token.ts'
export type { SchemaIssue, SchemaResult, StandardSchema } from '@common-handlers/core'
export {
  type GetSecretOptions,
  type NodeState,
  type RequestOptions,
  VaultHandler,
  type VaultHandlerOptions,
  type VaultHealth,
} from './vault-handler.ts'
export type { UnwrappedAnswer, UnwrapOptions, WrappedAnswer, Wrapping, WrappingFacts } from './wrapping.ts'
