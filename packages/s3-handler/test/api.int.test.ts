import { describeWith } from '@common-handlers/testkit'
import { apiSuite } from './api-suite.ts'

describeWith(['s3'], 'the calls of S3Handler on SeaweedFS', ({ s3 }) =>
  apiSuite(s3, { versions: true, encryption: true, classes: true, formNames: true, listOrder: 'other' }),
)
describeWith(['versitygw'], 'the calls of S3Handler on versitygw', ({ versitygw }) =>
  apiSuite(versitygw, { versions: false, encryption: false, classes: false, formNames: false, listOrder: 'bytes' }),
)
