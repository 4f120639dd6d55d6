import { describeWith, handlerConformance } from '@common-handlers/testkit'
import { PostgresHandler, type PostgresHandlerOptions } from '../src/index.ts'

describeWith(['postgres'], 'conformance', ({ postgres }) => {
  const { host, port, user, password, database } = postgres
  handlerConformance('PostgresHandler', {
    prefix: 'POSTGRES',
    create: (options: PostgresHandlerOptions) => new PostgresHandler(options),
    options: { host, port, user, password, database },
    at: (other) => ({ host, port: other, user, password, database }),
    secret: password,
    call: (pg, options) => pg.getRecords('SELECT 1', [], options),
  })
})
