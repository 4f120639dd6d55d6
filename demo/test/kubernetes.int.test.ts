import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { extractorConfigSchema } from '@common-handlers/audit-log-extractor'
import { exitCodes } from '@common-handlers/cli'
import { loadConfig } from '@common-handlers/core'
import { ingestorConfigSchema } from '@common-handlers/iceberg-ingestor'
import { kustomizeBinary, runWithKubernetesSchemas } from '@common-handlers/testkit'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'

const folder = new URL('../../docker/k8s/', import.meta.url).pathname

/** Reads YAML, validates each resource by the schemas of those releases of Kubernetes, prints the resources as JSON. */
const VALIDATE = `
import json, os, yaml, kubernetes_validate
resources = [r for r in yaml.safe_load_all(open(os.environ['FILE'])) if r]
problems = []
for r in resources:
    if r['apiVersion'].startswith('external-secrets.io/'): continue
    for release in os.environ['RELEASES'].split():
        try: kubernetes_validate.validate(r, release, strict=True)
        except kubernetes_validate.ValidationError as e:
            problems.append(f"{release}: {r['kind']} {r['metadata']['name']}: {'.'.join(map(str, e.path))}: {e.message}")
print(json.dumps({'resources': resources, 'problems': problems}, default=str))
`

interface Resource {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: {
    readonly name: string
    readonly namespace?: string
    readonly annotations?: Readonly<Record<string, string>>
  }
  readonly data?: Readonly<Record<string, string>>
  readonly spec?: unknown
}

/** The oldest that is taken and the newest whose schemas there are. */
const releases = '1.33 1.37'

let scratch: string
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'kubernetes-'))
})
afterAll(async () => {
  await rm(scratch, { recursive: true, force: true })
})

async function validate(text: string): Promise<{ resources: readonly Resource[]; problems: readonly string[] }> {
  const file = join(scratch, 'resources.yaml')
  await writeFile(file, text)
  const printed = await runWithKubernetesSchemas(VALIDATE, { FILE: file, RELEASES: releases })
  return JSON.parse(printed) as { resources: readonly Resource[]; problems: readonly string[] }
}

async function build(name: string): Promise<string> {
  const { stdout } = await promisify(execFile)(await kustomizeBinary(), ['build', join(folder, name)])
  return stdout
}

const podSpec = z.object({
  serviceAccountName: z.string(),
  automountServiceAccountToken: z.literal(false),
  restartPolicy: z.string().optional(),
  securityContext: z.object({
    runAsNonRoot: z.literal(true),
    runAsUser: z.number().positive(),
    seccompProfile: z.object({ type: z.literal('RuntimeDefault') }),
  }),
  containers: z
    .array(
      z.object({
        name: z.string(),
        image: z.string().regex(/:\d+\.\d+\.\d+$/),
        args: z.array(z.string()),
        env: z.array(z.object({ name: z.string(), value: z.string() })).optional(),
        securityContext: z.object({
          allowPrivilegeEscalation: z.literal(false),
          readOnlyRootFilesystem: z.literal(true),
          capabilities: z.object({ drop: z.tuple([z.literal('ALL')]) }),
        }),
        resources: z.object({ limits: z.object({ memory: z.literal('256Mi') }) }),
        volumeMounts: z.array(z.object({ name: z.string(), mountPath: z.string() })),
      }),
    )
    .length(1),
  volumes: z.array(
    z.object({
      name: z.string(),
      configMap: z.object({ name: z.string() }).optional(),
      secret: z.object({ secretName: z.string() }).optional(),
      projected: z.unknown().optional(),
    }),
  ),
})

const jobSpec = z.object({
  backoffLimit: z.number(),
  activeDeadlineSeconds: z.number(),
  podFailurePolicy: z.object({
    rules: z.array(
      z.object({
        action: z.string(),
        onExitCodes: z.object({ containerName: z.string(), operator: z.literal('In'), values: z.array(z.number()) }).optional(),
        onPodConditions: z.unknown().optional(),
      }),
    ),
  }),
  template: z.object({ spec: podSpec }),
})
const cronJobSpec = z.object({ concurrencyPolicy: z.literal('Forbid'), jobTemplate: z.object({ spec: jobSpec }) })

/** The documented shape of what the External Secrets Operator reads, as far as it is used: its schema is in no registry. */
const externalSecretSpec = z.strictObject({
  refreshInterval: z.string().regex(/^\d+[smh]$/),
  secretStoreRef: z.strictObject({ kind: z.enum(['SecretStore', 'ClusterSecretStore']), name: z.string() }),
  target: z.strictObject({ name: z.string() }),
  data: z.array(z.strictObject({ secretKey: z.string(), remoteRef: z.strictObject({ key: z.string(), property: z.string() }) })),
})

interface Built {
  readonly pods: readonly z.output<typeof podSpec>[]
  readonly resources: readonly Resource[]
  ofKind(kind: string): readonly Resource[]
}

const built = new Map<string, Promise<Built>>()

/** What the folder is built to; it is valid, and its programs are in the shape above. */
async function manifests(name: string): Promise<Built> {
  const known = built.get(name)
  if (known !== undefined) return await known
  const building = (async (): Promise<Built> => {
    const { resources, problems } = await validate(await build(name))
    if (problems.length > 0) throw new Error(problems.join('\n'))
    const ofKind = (kind: string): readonly Resource[] => resources.filter((resource) => resource.kind === kind)
    const pods = [
      ...ofKind('CronJob').map(({ spec }) => cronJobSpec.parse(spec).jobTemplate.spec.template.spec),
      ...ofKind('Deployment').map(({ spec }) => z.object({ template: z.object({ spec: podSpec }) }).parse(spec).template.spec),
    ]
    return { pods, resources, ofKind }
  })()
  built.set(name, building)
  return await building
}

const jobs = ['base', 'overlays/aws', 'overlays/external-secrets', 'overlays/vault-agent']

describe.each([...jobs, 'overlays/continuous'])('%s', (name) => {
  let { pods, resources, ofKind }: Built = { pods: [], resources: [], ofKind: () => [] }
  beforeAll(async () => {
    ;({ pods, resources, ofKind } = await manifests(name))
  })

  it('has both programs, without rights, each with its own account, in one namespace', () => {
    expect(pods.map(({ containers }) => containers[0]?.name).toSorted()).toEqual(['extractor', 'ingestor'])
    const accounts = ofKind('ServiceAccount').map(({ metadata }) => metadata.name)
    for (const { serviceAccountName } of pods) expect(accounts).toContain(serviceAccountName)
    for (const { kind, metadata } of resources)
      if (kind !== 'Namespace') expect(metadata.namespace, metadata.name).toBe('audit-log')
  })

  it('gives each program a configuration that it takes, and each file that it names', async () => {
    for (const { containers, volumes } of pods) {
      const [container] = containers
      const mount = (path: string): z.output<typeof podSpec>['volumes'][number] | undefined => {
        const found = container?.volumeMounts.find(({ mountPath }) => path.startsWith(`${mountPath}/`))
        return volumes.find((volume) => volume.name === found?.name)
      }
      const path = container?.args.at(-1) ?? ''
      const map = ofKind('ConfigMap').find(({ metadata }) => metadata.name === mount(path)?.configMap?.name)
      const file = join(scratch, 'config.yaml')
      await writeFile(file, map?.data?.[path.split('/').at(-1) ?? ''] ?? '')
      const read: string[] = []
      const reads = (reference: string): string => {
        read.push(reference.replace(/#.*$/, ''))
        return reference.endsWith('postgres-url') ? 'postgres://user:password@host/app' : 'a value'
      }
      const layers = { file, resolvers: { vault: reads, file: reads } }
      const vault =
        container?.name === 'extractor'
          ? (await loadConfig({ schema: extractorConfigSchema, ...layers })).value.vault
          : (await loadConfig({ schema: ingestorConfigSchema, ...layers })).value.vault
      const tokenFile = vault?.kubernetes?.tokenFile
      if (tokenFile !== undefined) expect(mount(tokenFile)?.projected, tokenFile).toBeDefined()
      for (const reference of read) {
        // The agent injector mounts its own files, at admission.
        if (!reference.startsWith('/') || reference.startsWith('/vault/secrets/')) continue
        const secret = mount(reference)?.secret?.secretName
        const made = ofKind('ExternalSecret').find(({ metadata }) => metadata.name === secret)
        const keys = externalSecretSpec.parse(made?.spec).data.map(({ secretKey }) => secretKey)
        expect(keys, reference).toContain(reference.split('/').at(-1))
      }
    }
  })

  it('lets each program speak to its own servers alone', () => {
    const policy = z.object({
      podSelector: z.object({ matchLabels: z.record(z.string(), z.string()).optional() }),
      egress: z
        .array(z.object({ to: z.array(z.unknown()).min(1), ports: z.array(z.object({ port: z.number() })).min(1) }))
        .optional(),
    })
    const ports = new Map(
      ofKind('NetworkPolicy').map(({ metadata, spec }) => [
        metadata.name,
        (policy.parse(spec).egress ?? []).flatMap((rule) => rule.ports.map(({ port }) => port)).toSorted((a, b) => a - b),
      ]),
    )
    const [vault, s3] = [name === 'overlays/external-secrets' ? [] : [8200], name === 'overlays/aws' ? 443 : 8333]
    expect(ports.get('dns-and-nothing-else')).toEqual([53, 53])
    expect(ports.get('audit-log-extractor')).toEqual([5432, s3, ...vault].toSorted((a, b) => a - b))
    expect(ports.get('iceberg-ingestor')).toEqual([8080, s3, ...vault].toSorted((a, b) => a - b))
  })
})

describe.each(jobs)('%s', (name) => {
  it('gives up at once where another try cannot help, and says a word on every exit code', async () => {
    const { ofKind } = await manifests(name)
    const { usage, denied, notFound, data, failed, unavailable, conflict, capacity } = exitCodes
    const told = { FailJob: [usage, denied, notFound, data], Count: [failed, unavailable, conflict, capacity] }
    expect(ofKind('CronJob')).toHaveLength(2)
    for (const { spec } of ofKind('CronJob')) {
      const job = cronJobSpec.parse(spec).jobTemplate.spec
      const { rules } = job.podFailurePolicy
      expect(rules[0]).toMatchObject({ action: 'Ignore', onPodConditions: [{ type: 'DisruptionTarget', status: 'True' }] })
      for (const [action, values] of Object.entries(told)) {
        const rule = rules.find((one) => one.action === action)?.onExitCodes
        expect(rule).toMatchObject({ containerName: job.template.spec.containers[0]?.name, values })
      }
      expect([job.template.spec.restartPolicy, job.backoffLimit]).toEqual(['Never', 3])
    }
  })
})

describe('overlays/continuous', () => {
  it('stays, tells, and keeps one ingestor through a drain', async () => {
    const { pods, ofKind } = await manifests('overlays/continuous')
    expect(ofKind('CronJob')).toEqual([])
    for (const { containers } of pods) {
      expect(containers[0]?.env?.map(({ name: variable }) => variable.replace(/^[A-Z]+_/, ''))).toEqual(['EVERY', 'LISTEN'])
    }
    expect(ofKind('PodDisruptionBudget').map(({ metadata }) => metadata.name)).toEqual(['iceberg-ingestor'])
  })
})

describe('overlays/aws', () => {
  it('takes the keys of S3 from the role of the account', async () => {
    const { ofKind } = await manifests('overlays/aws')
    for (const { metadata } of ofKind('ServiceAccount')) {
      expect(metadata.annotations?.['eks.amazonaws.com/role-arn']).toMatch(/^arn:aws:iam::\d{12}:role\//)
    }
    for (const map of ofKind('ConfigMap')) expect(Object.values(map.data ?? {}).join()).not.toMatch(/accessKeyId|endpoint/)
  })
})

describe('the schemas', () => {
  it('refuse a key that Kubernetes does not know, and a value of the wrong type', async () => {
    const text = await build('base')
    const unknown = await validate(text.replace('concurrencyPolicy: Forbid', 'concurrency: Forbid'))
    expect(unknown.problems.join()).toMatch(/CronJob audit-log-extractor.*concurrency/)
    const wrong = await validate(text.replace(/backoffLimit: 3/, 'backoffLimit: three'))
    expect(wrong.problems.join()).toMatch(/CronJob audit-log-extractor: .*backoffLimit.*three/)
  })
})
