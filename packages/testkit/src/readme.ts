import { readFile } from 'node:fs/promises'
import { join } from 'node:path'

/** The first example of a package's README: what a reader copies, for a test to run. */
export async function readmeExample(packageFolder: string): Promise<string> {
  const [, code] = /```ts\n([\s\S]*?)```/.exec(await readFile(join(packageFolder, 'README.md'), 'utf8')) ?? []
  if (code === undefined) throw new Error(`${packageFolder}/README.md has no example`)
  return code
}
