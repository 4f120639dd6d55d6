import { readEnvironment } from '../config.ts'
import { type Artifact, cached, provide } from './cache.ts'
import { ProvisionError, runClient } from './package-clients.ts'

/** A Python library with what it needs, in a folder of its own. */
export function library(name: string, version: string, requirement: string): Artifact {
  return {
    name,
    version,
    async fetch(into) {
      await runClient('python3', ['-m', 'pip', '--version']).catch((error: unknown) => {
        throw new ProvisionError(`${name} is fetched with pip, which is missing: install Python 3 with pip`, { cause: error })
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
        requirement,
      ])
    },
  }
}

/** PyIceberg, an implementation of Iceberg that shares no code with Trino: the independent witness of what was written. */
export const pyiceberg: Artifact = library('pyiceberg', '0.11.1', 'pyiceberg[pyarrow]==0.11.1')

/** hvac, the Vault client of Python: the witness of what VaultHandler wrote. */
export const hvac: Artifact = library('hvac', '2.4.0', 'hvac==2.4.0')

/** Trino's official Python client: what else reads a value, to compare with. */
export const trinoPython: Artifact = library('trino-python', '0.340.0', 'trino==0.340.0')

/** Runs a Python program that may import pyiceberg and pyarrow; returns what it prints. Secrets go by the environment. */
export function runWithPyIceberg(program: string, environment: Readonly<Record<string, string>>): Promise<string> {
  return runWithLibrary(pyiceberg, program, environment)
}

/** The same for hvac. */
export function runWithHvac(program: string, environment: Readonly<Record<string, string>>): Promise<string> {
  return runWithLibrary(hvac, program, environment)
}

/** The same for Trino's Python client. */
export function runWithTrinoPython(program: string, environment: Readonly<Record<string, string>>): Promise<string> {
  return runWithLibrary(trinoPython, program, environment)
}

export async function runWithLibrary(
  artifact: Artifact,
  program: string,
  environment: Readonly<Record<string, string>>,
): Promise<string> {
  const folder = readEnvironment().fetch ? await provide(artifact) : await cached(artifact)
  if (folder === undefined) throw new ProvisionError(`${artifact.name} is not in the cache and COMMON_HANDLERS_FETCH is off`)
  return await runClient('python3', ['-c', program], { env: { ...environment, PYTHONPATH: folder } })
}
