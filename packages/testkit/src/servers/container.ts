import type { StartedTestContainer } from 'testcontainers'
import { readEnvironment } from '../config.ts'
import type { ServerControl } from './server-process.ts'

/** What a server needs to run in a container. Ports are mapped to free ones of the loopback interface. */
export interface ContainerSpecification {
  readonly image: string
  readonly ports: readonly number[]
  readonly command: readonly string[]
  readonly environment?: Readonly<Record<string, string>>
  readonly files?: readonly { readonly content: string; readonly target: string }[]
  /** Ports of this machine that the container calls as `host.testcontainers.internal`. */
  readonly hostPorts?: readonly number[]
  readonly startTimeoutMs: number
}

export interface ServerContainer {
  readonly control: ServerControl
  readonly host: string
  /** The port of this machine that stands for one inside. */
  port(inside: number): number
}

/** Starts a container with testcontainers, which is loaded only now. @throws if no Docker engine answers. */
export async function startContainer(specification: ContainerSpecification): Promise<ServerContainer> {
  const { GenericContainer, TestContainers, Wait } = await import('testcontainers')
  if (specification.hostPorts !== undefined) await TestContainers.exposeHostPorts(...specification.hostPorts)
  let container = new GenericContainer(specification.image)
    .withExposedPorts(...specification.ports)
    .withCommand([...specification.command])
    .withEnvironment({ ...specification.environment })
    .withWaitStrategy(Wait.forListeningPorts())
    .withStartupTimeout(specification.startTimeoutMs)
  const { containerNetwork } = readEnvironment()
  if (containerNetwork !== undefined) container = container.withNetworkMode(containerNetwork)
  if (specification.files !== undefined) container = container.withCopyContentToContainer([...specification.files])
  const started = await container.start()
  let stopped: Promise<unknown> | undefined
  const stop = async (): Promise<void> => {
    stopped ??= started.stop()
    await stopped
  }
  return {
    host: started.getHost(),
    port: (inside) => started.getMappedPort(inside),
    control: {
      pids: async () => [],
      logTail: async (lines = 30) => await readLog(started, lines),
      // An engine maps a container's ports anew at each start, so an address would not survive.
      down: refuse,
      up: refuse,
      restart: refuse,
      stop,
      [Symbol.asyncDispose]: stop,
    },
  }
}

async function refuse(): Promise<never> {
  throw new Error('a server in a container is not taken down and up again: its mapped ports would change')
}

async function readLog(container: StartedTestContainer, lines: number): Promise<string> {
  const stream = await container.logs({ tail: lines })
  setTimeout(() => stream.destroy(), 500).unref()
  let text = ''
  try {
    for await (const chunk of stream) text += String(chunk)
  } catch {
    // The stream follows the log; it was ended above.
  }
  return text
}
