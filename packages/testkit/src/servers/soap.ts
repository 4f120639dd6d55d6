import { randomUUID } from 'node:crypto'
import { ServerUnavailable } from '../errors.ts'
import { javaProgram, quickStart, soapService } from '../provision/java-servers.ts'
import { onFreePorts } from './ports.ts'
import { inTemporaryFolder, launch, type ServerControl } from './server-process.ts'

/** Where clients connect. */
export type SoapServer = ServerControl & {
  readonly url: string
  /** Its description; behind the same login. */
  readonly wsdlUrl: string
  readonly user: string
  readonly password: string
}

/**
 * Starts a SOAP 1.1 service (JAX-WS, document/literal, namespace `urn:orders`) on loopback, behind basic authentication:
 * `GetOrders(since, count)` with decimals that no double holds, `Fail(message)` with a fault, `Wait(milliseconds)`.
 * @throws ServerUnavailable if it cannot be fetched, ServerStartError if it does not start
 */
export async function startSoap(): Promise<SoapServer> {
  const { java, classPath } = await javaProgram(soapService, 17).catch((error: Error) => {
    throw new ServerUnavailable('soap', error.message, { cause: error })
  })
  return await inTemporaryFolder('soap', (folder) =>
    onFreePorts(1, async ([port = 0]) => {
      const [user, password] = ['test', randomUUID()]
      const url = `http://127.0.0.1:${port}/orders`
      const control = await launch({
        name: 'soap',
        folder,
        command: java.command,
        args: ['-Xmx128m', ...quickStart, '-cp', classPath, 'Main', String(port)],
        env: { SOAP_USER: user, SOAP_PASSWORD: password },
        stopSignal: 'SIGTERM',
        startTimeoutMs: 60_000,
        async ready(signal) {
          const response = await fetch(`${url}?wsdl`, {
            headers: { authorization: `Basic ${btoa(`${user}:${password}`)}` },
            signal,
          })
          await response.arrayBuffer()
          if (!response.ok) throw new Error(`its WSDL answered ${response.status}`)
        },
      })
      return { url, wsdlUrl: `${url}?wsdl`, user, password, ...control }
    }),
  )
}
