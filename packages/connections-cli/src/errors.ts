import { ConfigError } from '@common-handlers/core'

export const noFile = (looked: readonly string[]): ConfigError =>
  new ConfigError(
    `which connections? Name their file with --file or CONNECTIONS_FILE; there is no ${looked.join(', no ')} here. One is tried without a file: connections test <protocol>`,
    { code: 'CONNECTIONS_CLI_NO_FILE' },
  )

export const otherProtocol = (file: string, protocol: string, found: readonly string[]): ConfigError =>
  new ConfigError(`${file} has no connection "${protocol}"; it has: ${found.join(', ')}`, {
    code: 'CONNECTIONS_CLI_NOT_IN_FILE',
    context: { file },
  })

export const keyUnusable = (text: string, why: string): ConfigError =>
  new ConfigError(`--key ${text}: ${why}`, { code: 'CLI_USAGE' })

/** Neither the value nor the key's neighbours are shown. */
export const secretInArguments = (where: string): ConfigError =>
  new ConfigError(
    `${where} is a secret, and everybody on this machine can read the arguments of a program: write env:NAME or file:/path in its place, or give it in the environment`,
    { code: 'CONNECTIONS_CLI_SECRET_IN_ARGUMENTS' },
  )

export const noVault = (): ConfigError =>
  new ConfigError('this program reads env: and file: references, and no vault', { code: 'CONNECTIONS_CLI_NO_VAULT' })
