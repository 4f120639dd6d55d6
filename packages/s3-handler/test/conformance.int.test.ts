import { describeWith, handlerConformance } from '@common-handlers/testkit'
import { S3Handler, type S3HandlerOptions } from '../src/index.ts'

describeWith(['s3'], 'conformance', ({ s3 }) => {
  const { bucket, region, accessKeyId, secretAccessKey } = s3
  const options = { bucket, region, accessKeyId, secretAccessKey }
  handlerConformance('S3Handler', {
    prefix: 'S3',
    create: (given: S3HandlerOptions) => new S3Handler(given),
    options: { ...options, endpoint: s3.endpoint },
    at: (port) => ({ ...options, endpoint: `http://127.0.0.1:${port}` }),
    secret: secretAccessKey,
    call: (handler, call) => handler.exists('conformance/nothing-here', call),
  })
})
