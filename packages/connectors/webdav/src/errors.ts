import { ConfigError, DataError, RemoteError } from '@common-handlers/core'

/** Of a server that answers, and not as one of WebDAV does. */
export const notSpoken = (url: string, said: string): RemoteError =>
  new RemoteError(`${url} does not speak WebDAV (it answered ${said}): baseUrl must be a folder that it serves so`, {
    code: 'WEBDAV_NOT_SPOKEN',
    context: { url },
    serverCode: said,
  })

export const answerUnusable = (url: string, why: string, cause?: unknown): DataError =>
  new DataError(`${url}: the answer cannot be used: ${why}`, {
    code: 'WEBDAV_ANSWER_INVALID',
    where: { file: url },
    ...(cause === undefined ? {} : { cause }),
  })

export const listTooOdd = (url: string, href: string): DataError =>
  answerUnusable(url, `it lists ${JSON.stringify(href)}, which is not in that folder`)

export const urlInvalid = (): ConfigError =>
  new ConfigError('a URL for webdav begins with http:// or https://', { code: 'WEBDAV_URL_INVALID' })
