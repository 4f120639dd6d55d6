import { describeWith, startSeaweedfs, startVersitygw } from '@common-handlers/testkit'
import { memorySuite, restartSuite, transferSuite } from './transfer-suite.ts'

// 1024 once, by hand: it takes a minute.
const restartMib = Number(process.env['TEST_S3_RESTART_MIB'] ?? 64)

describeWith(['s3'], 'transfers of S3Handler on SeaweedFS', ({ s3 }) => {
  transferSuite(s3)
  restartSuite(startSeaweedfs, restartMib)
})
describeWith(['versitygw'], 'transfers of S3Handler on versitygw', ({ versitygw }) => {
  transferSuite(versitygw)
  restartSuite(startVersitygw, restartMib)
  memorySuite(startVersitygw)
})
