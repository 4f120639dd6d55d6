import type { z } from 'zod'
import { type App, runApp } from './app.ts'
import { exitCodes, Interrupted } from './exit-code.ts'

/**
 * Runs an app as this process: its arguments, environment and streams, SIGINT and SIGTERM as an abort, and its exit
 * code as the process's. A second signal ends it at once.
 */
export async function main<S extends z.ZodType>(app: App<S>): Promise<void> {
  const stop = new AbortController()
  const onSignal = (name: 'SIGINT' | 'SIGTERM'): void => {
    if (stop.signal.aborted) process.exit(name === 'SIGINT' ? exitCodes.interrupted : exitCodes.terminated)
    stop.abort(new Interrupted(name))
  }
  process.on('SIGINT', onSignal)
  process.on('SIGTERM', onSignal)
  // A reader that closes the pipe (`| head`) is no failure of ours.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
  })
  const { argv, env, stdout, stderr } = process
  process.exitCode = await runApp(app, { argv: argv.slice(2), env, stdout, stderr }, stop.signal)
  process.off('SIGINT', onSignal)
  process.off('SIGTERM', onSignal)
}
