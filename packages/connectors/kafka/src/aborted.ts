/** What is looked at of an answer of the broker: one partition's batches, in order. */
export interface FetchedPartition {
  readonly abortedTransactions: readonly { readonly producerId: bigint; readonly firstOffset: bigint }[] | null
  readonly records?: FetchedBatch[] | null | undefined
}

interface FetchedBatch {
  readonly firstOffset: bigint
  readonly lastOffsetDelta: number
  readonly producerId: bigint
  attributes: number
  readonly records: readonly { readonly key: Buffer | null }[]
}

/** Bits of a batch's attributes (https://kafka.apache.org/documentation/#recordbatch). */
const TRANSACTIONAL = 0x10
/** It holds no messages but the end of a transaction. */
export const CONTROL = 0x20
const ABORT = 0

/**
 * Marks the batches of aborted transactions, so that they are passed over like those that end one and the offset goes on
 * behind them. The driver 2.12.1 knows one aborted transaction of a producer in an answer, and only with its end.
 * As the Java consumer does it: a producer's batches belong to the transaction that began last and has not ended.
 */
export function passOverAborted({ abortedTransactions, records }: FetchedPartition): void {
  const begins = (abortedTransactions ?? []).toSorted((a, b) => (a.firstOffset < b.firstOffset ? -1 : 1))
  const aborted = new Set<bigint>()
  for (const batch of records ?? []) {
    const last = batch.firstOffset + BigInt(batch.lastOffsetDelta)
    for (let [begin] = begins; begin !== undefined && begin.firstOffset <= last; [begin] = begins) {
      aborted.add(begin.producerId)
      begins.shift()
    }
    if ((batch.attributes & CONTROL) !== 0) {
      if (batch.records[0]?.key?.readInt16BE(2) === ABORT) aborted.delete(batch.producerId)
    } else if ((batch.attributes & TRANSACTIONAL) !== 0 && aborted.has(batch.producerId)) {
      batch.attributes |= CONTROL
    }
  }
}
