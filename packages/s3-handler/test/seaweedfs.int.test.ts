import { describeWith } from '@common-handlers/testkit'
import { serverSuite } from './server-suite.ts'

describeWith(['s3'], 'S3Handler on SeaweedFS', ({ s3 }) => serverSuite(s3))
