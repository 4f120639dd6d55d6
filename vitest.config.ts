import { defineConfig } from 'vitest/config'
import { SummaryReporter } from './packages/testkit/src/vitest/reporter.ts'
import projects from './vitest.workspace.ts'

export default defineConfig({
  test: {
    projects,
    // Tests wait for servers more than they work: two files at a time halve the run on two cores.
    maxWorkers: 2,
    globalSetup: ['./packages/testkit/src/vitest/global-setup.ts'],
    // The last line is `N passed, N failed`.
    reporters: ['default', new SummaryReporter()],
  },
})
