import { objectStoreConformance } from '@common-handlers/storage/conformance'
import { describeWith, type S3Address } from '@common-handlers/testkit'
import { describe, it } from 'vitest'
import { S3Handler } from '../src/index.ts'

const conformance = (title: string, { endpoint, region, accessKeyId, secretAccessKey, bucket }: S3Address): void =>
  objectStoreConformance(
    { describe, it },
    {
      title,
      open: () =>
        new S3Handler({
          endpoint,
          region,
          accessKeyId,
          secretAccessKey,
          bucket,
          prefix: 's3-handler-conformance',
          partSize: 5 * 1024 * 1024,
        }),
    },
  )

describeWith(['s3'], 'S3Handler', ({ s3 }) => conformance('S3Handler on SeaweedFS', s3))
describeWith(['versitygw'], 'S3Handler', ({ versitygw }) => conformance('S3Handler on versitygw', versitygw))
