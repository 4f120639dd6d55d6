import { readEnvironment } from '../config.ts'
import { ServerStartError, ServerUnavailable } from '../errors.ts'
import type { ServerKind } from './addresses.ts'

/**
 * Starts a server from binaries, or in a container if the binaries cannot be had, or `TESTCONTAINERS` asks for it.
 * A server whose binary is there but does not start is a fault to look at and is not hidden by a container.
 */
export async function fromBinaryOrContainer<T>(
  kind: ServerKind,
  fromBinary: () => Promise<T>,
  fromContainer: () => Promise<T>,
): Promise<T> {
  if (readEnvironment().containers) {
    return await fromContainer().catch((error: unknown) => {
      throw new ServerUnavailable(kind, `as a container: ${message(error)}`, { cause: error })
    })
  }
  try {
    return await fromBinary()
  } catch (binaryError) {
    if (binaryError instanceof ServerStartError || binaryError instanceof ServerUnavailable) throw binaryError
    try {
      return await fromContainer()
    } catch (containerError) {
      throw new ServerUnavailable(kind, `${message(binaryError)}; and as a container: ${message(containerError)}`, {
        cause: binaryError,
      })
    }
  }
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
