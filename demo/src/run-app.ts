import { spawn } from 'node:child_process'
import { relative } from 'node:path'

const ROOT = new URL('../../', import.meta.url).pathname

export interface AppResult<T> {
  readonly result: T
  readonly seconds: number
}

/**
 * Runs an app as its own process, as a user or a container would, and returns the JSON it prints. Its log stays on the
 * terminal when it fails.
 */
export async function runApp<T>(
  app: 'extractor' | 'ingestor',
  args: readonly string[],
  signal: AbortSignal,
): Promise<AppResult<T>> {
  const main = `${ROOT}apps/${app}/src/main.ts`
  const began = performance.now()
  const child = spawn(process.execPath, ['--conditions=@common-handlers/source', main, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const stop = (): void => void child.kill('SIGTERM')
  signal.addEventListener('abort', stop, { once: true })
  let out = ''
  let log = ''
  child.stdout.on('data', (chunk: Buffer) => (out += String(chunk)))
  child.stderr.on('data', (chunk: Buffer) => (log += String(chunk)))
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', resolve)
  })
  signal.removeEventListener('abort', stop)
  signal.throwIfAborted()
  if (code !== 0) throw new Error(`${app} ${args.join(' ')} ended with ${String(code)}:\n${log}`)
  return { result: JSON.parse(out) as T, seconds: (performance.now() - began) / 1000 }
}

/** The same command for a reader who wants to type it. */
export function appCommand(app: 'extractor' | 'ingestor', args: readonly string[]): string {
  const shown = args.map((arg) => (arg.startsWith('/') ? relative(process.cwd(), arg) : arg))
  return `${app === 'extractor' ? 'audit-log-extractor' : 'iceberg-ingestor'} ${shown.join(' ')}`
}
