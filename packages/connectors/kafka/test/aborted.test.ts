import { expect, it } from 'vitest'
import { CONTROL, type FetchedPartition, passOverAborted } from '../src/aborted.ts'

const DATA = 0x10
const end = (offset: bigint, producerId: bigint, type: 0 | 1): NonNullable<FetchedPartition['records']>[number] => ({
  firstOffset: offset,
  lastOffsetDelta: 0,
  producerId,
  attributes: DATA | CONTROL,
  records: [{ key: Buffer.from([0, 0, 0, type]) }],
})
const data = (offset: bigint, producerId: bigint, attributes = DATA): NonNullable<FetchedPartition['records']>[number] => ({
  firstOffset: offset,
  lastOffsetDelta: 1,
  producerId,
  attributes,
  records: [],
})

/** First offsets of the batches whose messages are given. */
function given(partition: FetchedPartition): bigint[] {
  passOverAborted(partition)
  return (partition.records ?? []).filter(({ attributes }) => (attributes & CONTROL) === 0).map(({ firstOffset }) => firstOffset)
}

it.each<[string, FetchedPartition, bigint[]]>([
  ['without transactions', { abortedTransactions: null, records: [data(0n, -1n, 0), data(2n, 1n)] }, [0n, 2n]],
  [
    'two aborted ones of a producer, and one committed between',
    {
      abortedTransactions: [
        { producerId: 1n, firstOffset: 6n },
        { producerId: 1n, firstOffset: 0n },
      ],
      records: [data(0n, 1n), end(2n, 1n, 0), data(3n, 1n), end(5n, 1n, 1), data(6n, 1n), end(8n, 1n, 0), data(9n, 1n)],
    },
    [3n, 9n],
  ],
  [
    'one whose end is in a later answer, beside another producer and messages without a transaction',
    {
      abortedTransactions: [{ producerId: 1n, firstOffset: 0n }],
      records: [data(0n, 1n), data(2n, 2n), data(4n, 1n, 0), data(6n, 1n)],
    },
    [2n, 4n],
  ],
  [
    'one that began before',
    { abortedTransactions: [{ producerId: 1n, firstOffset: 0n }], records: [data(8n, 1n), end(10n, 1n, 0), data(11n, 1n)] },
    [11n],
  ],
])('%s', (_name, partition, offsets) => {
  expect(given(partition)).toEqual(offsets)
})
