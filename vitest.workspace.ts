import type { TestProjectConfiguration } from 'vitest/config'

// Siblings are read from their sources: no build stands between a change and its test.
// No 'module': what packages give under it is for bundlers (the AWS SDK's has imports without suffixes, which Node refuses).
// No 'import' either: Node would apply it to require() too.
const conditions = ['@common-handlers/source', 'node']
const source = { resolve: { conditions }, ssr: { resolve: { conditions, externalConditions: conditions } } }
const exclude = ['**/node_modules/**', '**/dist/**']

const projects: TestProjectConfiguration[] = [
  {
    ...source,
    test: {
      name: 'unit',
      include: ['{packages,packages/connectors,apps}/*/test/**/*.test.ts', 'demo/test/**/*.test.ts'],
      exclude: [...exclude, '**/*.int.test.ts'],
      testTimeout: 30_000,
    },
  },
  {
    ...source,
    test: {
      name: 'servers',
      include: ['{packages,packages/connectors,apps}/*/test/**/*.int.test.ts', 'demo/test/**/*.int.test.ts'],
      exclude,
      testTimeout: 120_000,
      hookTimeout: 300_000,
    },
  },
]

export default projects
