import { readEnvironment } from '../config.ts'
import { type Artifact, cached, provide } from './cache.ts'
import { ProvisionError, runClient } from './package-clients.ts'

/** PyIceberg, an implementation of Iceberg that shares no code with Trino: the independent witness of what was written. */
export const pyiceberg: Artifact = {
  name: 'pyiceberg',
  version: '0.11.1',
  async fetch(into) {
    await runClient('python3', ['-m', 'pip', '--version']).catch((error: unknown) => {
      throw new ProvisionError('PyIceberg is fetched with pip, which is missing: install Python 3 with pip', { cause: error })
    })
    await runClient('python3', [
      '-m',
      'pip',
      'install',
      '--quiet',
      '--disable-pip-version-check',
      '--root-user-action=ignore',
      '--only-binary=:all:',
      '--target',
      into,
      `pyiceberg[pyarrow]==${this.version}`,
    ])
  },
}

/** Runs a Python program that may import pyiceberg and pyarrow; returns what it prints. Secrets go by the environment. */
export async function runWithPyIceberg(program: string, environment: Readonly<Record<string, string>>): Promise<string> {
  const folder = readEnvironment().fetch ? await provide(pyiceberg) : await cached(pyiceberg)
  if (folder === undefined) throw new ProvisionError('pyiceberg is not in the cache and COMMON_HANDLERS_FETCH is off')
  return await runClient('python3', ['-c', program], { env: { ...environment, PYTHONPATH: folder } })
}
