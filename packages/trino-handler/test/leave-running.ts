/* oxlint-disable no-console -- it talks to whoever runs it */
import { TrinoHandler } from '../src/index.ts'

// Run by secured.int.test.ts: prints the id of a statement that runs, and ends in the way it is told to.
const [how, url = '', user = ''] = process.argv.slice(2)
const trino = new TrinoHandler({
  url,
  user,
  password: process.env['PASSWORD'],
  tls: { caCert: process.env['CA'] },
})
const leave = async (): Promise<void> => {
  if (how === 'end') {
    // A reader that does not go on: nothing is waited for any more, and the process ends by itself.
    const first = await trino.pages('SELECT * FROM tpch.sf1000.lineitem').next()
    console.log(first.done === true ? '' : first.value.queryId)
    return
  }
  const { promise: running, resolve } = Promise.withResolvers<string>()
  const counting = trino.query('SELECT count(*) FROM tpch.sf1000.lineitem WHERE comment LIKE ?', ['%x%y%z%'], {
    onProgress: ({ queryId, state }) => (state === 'RUNNING' ? resolve(queryId) : undefined),
  })
  counting.catch(() => undefined)
  console.log(await running)
  if (how === 'exit') process.exit(3)
  if (how === 'kill') process.kill(process.pid, 'SIGKILL')
  throw new Error('enough')
}
await leave()
