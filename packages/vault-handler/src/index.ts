export {
  type AppRoleConfig,
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
export type { SecretData } from './key-value.ts'
export type { SchemaIssue, SchemaResult, StandardSchema } from '@common-handlers/core'
export {
  type GetSecretOptions,
  type NodeState,
  type RequestOptions,
  VaultHandler,
  type VaultHandlerOptions,
  type VaultHealth,
} from './vault-handler.ts'
