import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { readEnvironment } from '../config.ts'
import { runClient } from './package-clients.ts'

/** A Java runtime of this machine. */
export interface Java {
  readonly home: string
  readonly command: string
  readonly major: number
}

/** Looks through JAVA_HOME, the PATH and the usual system folder for the first Java of these versions. */
export async function findJava(atLeast: number, atMost: number = Infinity): Promise<Java | undefined> {
  const environment = readEnvironment()
  const systemFolder = '/usr/lib/jvm'
  const installed = (await readdir(systemFolder).catch(() => [])).toSorted((a, b) => b.localeCompare(a, 'en', { numeric: true }))
  const commands = [
    ...(environment.javaHome === undefined ? [] : [join(environment.javaHome, 'bin', 'java')]),
    'java',
    ...installed.map((name) => join(systemFolder, name, 'bin', 'java')),
  ]
  for (const command of commands) {
    const java = await inspect(command)
    if (java !== undefined && java.major >= atLeast && java.major <= atMost) return java
  }
  return undefined
}

async function inspect(command: string): Promise<Java | undefined> {
  const settings = await runClient(command, ['-XshowSettings:properties', '-version']).catch(() => undefined)
  const home = settings?.match(/^\s*java\.home = (.+)$/m)?.[1]
  const major = settings?.match(/^\s*java\.specification\.version = (\d+)$/m)?.[1]
  if (home === undefined || major === undefined) return undefined
  return { home, command: join(home, 'bin', 'java'), major: Number(major) }
}
