import { describeWith } from '@common-handlers/testkit'
import { serverSuite } from './server-suite.ts'

describeWith(['versitygw'], 'S3Handler on versitygw', ({ versitygw }) => serverSuite(versitygw))
