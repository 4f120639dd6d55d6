import type { CallOptions, CheckResult, Closable, ConfigTree, Logger } from '@common-handlers/core'
import type { ConnectorDefinition } from './contract.ts'

/** A connection that works as every handler does. */
interface Handler extends Closable {
  connect(options?: CallOptions): Promise<unknown>
  check(options?: CallOptions): Promise<CheckResult>
}

/** `open` and `test` of a definition whose connection is a handler; `forTest` changes what a test is made with. */
export function handlerLife<Config, Opened extends Handler>(
  create: (config: Config, logger: Logger) => Promise<Opened>,
  forTest: (config: Config) => Config = (config) => config,
): Pick<ConnectorDefinition<string, unknown, Config, Opened>, 'open' | 'test'> {
  return {
    open: async (config, { signal, logger }) => {
      const opened = await create(config, logger)
      try {
        await opened.connect({ signal })
      } catch (error) {
        await opened.close()
        throw error
      }
      return opened
    },
    test: async (config, { signal, logger }) => {
      await using opened = await create(forTest(config), logger)
      return await opened.check({ signal })
    },
  }
}

/** The keys that a URL gives by its host and port. */
export function addressIn({ hostname, port }: URL): ConfigTree {
  // An IPv6 address stands in brackets in a URL, and nowhere else.
  return { ...given('host', hostname.replace(/^\[(.*)\]$/, '$1')), ...(port === '' ? {} : { port: Number(port) }) }
}

/** The keys that a URL gives by its user and password; what it does not give another layer may. */
export function loginIn({ username, password }: URL): ConfigTree {
  return { ...given('username', username), ...given('password', password) }
}

/** The key that a URL gives by its path. */
export function pathIn({ pathname }: URL, key: string): ConfigTree {
  return given(key, pathname.slice(1))
}

const given = (key: string, value: string): ConfigTree => (value === '' ? {} : { [key]: decodeURIComponent(value) })
