// Writes and reads one object with credentials of the AWS chain, in a process of its own: the chain reads the environment.
import { HandlerError } from '@common-handlers/core'
import { S3Handler, type S3HandlerOptions } from '../src/index.ts'

const options = JSON.parse(process.env['S3_OPTIONS'] ?? '{}') as S3HandlerOptions
await using s3 = new S3Handler(options)
try {
  await s3.put('chain', 'x')
  process.stdout.write((await s3.getText('chain')) === 'x' ? 'written and read' : 'something else')
} catch (error) {
  if (!HandlerError.is(error)) throw error
  process.stdout.write(`${error.name} ${error.code}`)
}
