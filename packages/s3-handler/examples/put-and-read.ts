// Writes objects, reads them back, and shows what a conditional write says. Credentials come from the AWS chain.
//   S3_ENDPOINT=http://127.0.0.1:9000 S3_BUCKET=lake AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… node examples/put-and-read.ts
import { S3Handler } from '@common-handlers/s3-handler'

await using s3 = new S3Handler({
  bucket: process.env['S3_BUCKET'] ?? 'lake',
  prefix: process.env['S3_PREFIX'] ?? 'example',
  endpoint: process.env['S3_ENDPOINT'],
})

async function* rows(): AsyncGenerator<Uint8Array> {
  yield Buffer.from('id,name\n')
  for (let id = 1; id <= 3; id++) yield Buffer.from(`${id},row ${id}\n`)
}

const { size } = await s3.put('report.csv', rows(), { contentType: 'text/csv' })
console.log(`wrote ${size} bytes`)

for await (const { key, size: bytes } of s3.list('')) console.log(`${key}: ${bytes} bytes`)
console.log(await s3.getText('report.csv'))

const first = await s3.putIfAbsent('claim.json', '{"owner":"one"}')
const second = await s3.putIfAbsent('claim.json', '{"owner":"two"}')
console.log(`first: ${first.written}, second: ${second.written}`)
console.log('the claim is held by', await s3.getJson('claim.json'))

const { deleted } = await s3.deleteMany(['report.csv', 'claim.json'])
console.log(`deleted ${deleted}`)
