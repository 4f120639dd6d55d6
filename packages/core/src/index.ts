export { onAbort, untilAborted } from './abort.ts'
export { type CheckAttempt, type CheckResult, type CheckStep, runCheck } from './check.ts'
export {
  type ConfigLayers,
  type ConfigTree,
  type Explained,
  fromText,
  loadConfig,
  type LoadedConfig,
  mergeConfig,
  readConfigFile,
  setConfigValue,
} from './config.ts'
export { type ConfigKey, configKeys, environmentName, secret } from './config-schema.ts'
export { type Compression, decompress } from './decompress.ts'
export {
  AuthError,
  CapacityError,
  ConfigError,
  ConflictError,
  ConnectionError,
  DataError,
  type DataLocation,
  HandlerError,
  type HandlerErrorOptions,
  NotFoundError,
  OperationTimeoutError,
  type Outcome,
  PermissionError,
  RemoteError,
  type Retry,
  toSafeCause,
} from './errors.ts'
export { type Closable, type CloseOptions, Lifecycle } from './lifecycle.ts'
export { type Logger, silentLogger } from './logger.ts'
export { REDACTED, registerSecretValue, scrub, scrubDeep } from './redaction.ts'
export { environmentResolver, fileResolver, isReference, type ReferenceResolver } from './reference.ts'
export { defaultRetryPolicy, parseRetryAfter, retry, retryDelay, type RetryOptions, type RetryPolicy } from './retry.ts'
export { Secret } from './secret.ts'
export { isStandardSchema, issuePath, type SchemaIssue, type SchemaResult, type StandardSchema } from './standard-schema.ts'
export { type CallOptions, type Deadline, sleep, withDeadline } from './time.ts'
