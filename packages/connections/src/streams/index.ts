// What connectors of message brokers share.
export { consumeBatches, type ConsumeBatchesOptions, type Delivery, type Subscription } from './consume.ts'
export { type BatchLimits, type Consumed, type Sink, type StreamItem, toIngestedItems } from './contract.ts'
export { contentKey, decodePayload, type Payload, type PayloadFormat, undecoded } from './payload.ts'
