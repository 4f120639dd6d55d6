import { ConfigError } from '@common-handlers/core'

/**
 * The segments of a path as it is written in the server's documentation: `secret/data/my app`. Slashes at both ends are
 * dropped. A path is plain text: nothing in it is percent-decoded.
 * @throws ConfigError `VAULT_PATH_INVALID`
 */
export function parsePath(path: string): readonly string[] {
  const segments = path.replace(/^\/+|\/+$/g, '').split('/')
  for (const segment of segments) {
    // A dot segment would be resolved on the way, and another path than the one that was asked for be read. Of what cannot be
    // printed (Go's unicode.IsPrint) the server takes nothing but the space, and says no more than 400.
    if (segment === '' || segment === '.' || segment === '..' || /[^\p{L}\p{M}\p{N}\p{P}\p{S} ]/u.test(segment)) {
      throw new ConfigError(
        `not a path: "${path}"; expected names with one slash between them, none of them empty, "." or "..", of characters that can be printed`,
        {
          code: 'VAULT_PATH_INVALID',
          context: { path },
        },
      )
    }
  }
  return segments
}

/** The path as it goes over the wire. */
export function encodePath(path: string): string {
  return parsePath(path).map(encodeURIComponent).join('/')
}

/**
 * `path#field`, split at the last `#`, since a path may hold one.
 * @throws ConfigError `VAULT_REFERENCE_INVALID`
 */
export function parseReference(reference: string): { readonly path: string; readonly field: string } {
  const at = reference.lastIndexOf('#')
  if (at <= 0 || at === reference.length - 1) {
    throw new ConfigError(`"${reference}" names no field; expected path#field, such as secret/postgres/db#password`, {
      code: 'VAULT_REFERENCE_INVALID',
      context: { reference },
    })
  }
  return { path: reference.slice(0, at), field: reference.slice(at + 1) }
}
