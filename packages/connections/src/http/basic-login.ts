import { Secret } from '@common-handlers/core'

/** The header of basic authentication (RFC 7617), struck out wherever it would be shown. */
export const basicLogin = (user: string, password: string): string =>
  `Basic ${new Secret(Buffer.from(`${user}:${password}`).toString('base64')).expose()}`
