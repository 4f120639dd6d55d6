import type { TestProject } from 'vitest/node'
import { startKeeper } from './keeper.ts'

/** For `globalSetup` in the root of a vitest configuration: without it `describeWith` has nobody to ask for servers. */
export async function setup(project: TestProject): Promise<() => Promise<void>> {
  const keeper = await startKeeper()
  project.provide('testkitKeeper', keeper.address)
  return () => keeper.stop()
}
