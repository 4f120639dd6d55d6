import type { z } from 'zod'
import type { App } from './app.ts'
import { Interrupted } from './exit-code.ts'

/**
 * Runs an app as this process: its arguments, environment and streams, SIGINT and SIGTERM as an abort, and its exit
 * code as the process's. A second signal ends it at once.
 *
 * The app is loaded here, and this module loads next to nothing: the first process of a container gets no signal that it
 * has not asked for, so asking comes first.
 */
export async function main<S extends z.ZodType>(load: () => Promise<App<S>>): Promise<void> {
  const stop = new AbortController()
  let loaded = false
  const onSignal = (name: 'SIGINT' | 'SIGTERM'): void => {
    const reason = new Interrupted(name)
    // While it loads there is nothing to end in order.
    if (!loaded || stop.signal.aborted) process.exit(reason.exitCode)
    stop.abort(reason)
  }
  process.on('SIGINT', onSignal)
  process.on('SIGTERM', onSignal)
  // A reader that closes the pipe (`| head`) is no failure of ours.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
  })
  const [{ runApp }, app] = await Promise.all([import('./app.ts'), load()])
  loaded = true
  const { argv, env, stdout, stderr } = process
  process.exitCode = await runApp(app, { argv: argv.slice(2), env, stdout, stderr }, stop.signal)
  process.off('SIGINT', onSignal)
  process.off('SIGTERM', onSignal)
}
