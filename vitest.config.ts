import { defineConfig } from 'vitest/config'
import { SummaryReporter } from './packages/testkit/src/vitest/reporter.ts'
import projects from './vitest.workspace.ts'

export default defineConfig({
  test: {
    projects,
    globalSetup: ['./packages/testkit/src/vitest/global-setup.ts'],
    // The last line is `N passed, N failed`.
    reporters: ['default', new SummaryReporter()],
  },
})
