import { describeWith, handlerConformance } from '@common-handlers/testkit'
import { TrinoHandler, type TrinoOptions } from '../src/index.ts'

describeWith(['trino'], 'conformance', ({ trino }) => {
  const password = 'a-planted-password'
  handlerConformance('TrinoHandler', {
    prefix: 'TRINO',
    create: (options: TrinoOptions) => new TrinoHandler(options),
    options: { url: trino.url, user: trino.user },
    at: (port) => ({ url: `http://127.0.0.1:${port}`, user: trino.user, password }),
    secret: password,
    call: (handler, options) => handler.query('SELECT 1', [], options),
  })
})
