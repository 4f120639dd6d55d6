export {
  type AppRoleConfig,
  type AwsConfig,
  type AwsCredentials,
  type CacheConfig,
  type CertificateConfig,
  type JwtConfig,
  type KubernetesConfig,
  type RateLimitConfig,
  type UserpassConfig,
  type Variables,
  type VaultConfig,
  vaultConfigFromEnvironment,
  type VaultConfigInput,
  vaultConfigSchema,
  type VaultTlsConfig,
} from './config.ts'
export type { NodeState, VaultHealth } from './health.ts'
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
export type { StandardSchema } from '@common-handlers/core'
export { type GetSecretOptions, type RequestOptions, VaultHandler, type VaultHandlerOptions } from './vault-handler.ts'
export type { UnwrappedAnswer, UnwrapOptions, WrappedAnswer, Wrapping, WrappingFacts } from './wrapping.ts'
