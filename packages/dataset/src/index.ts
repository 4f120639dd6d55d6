export { decompress } from '@common-handlers/core'
export {
  type BrokenRow,
  type CsvFormat,
  type CsvRow,
  findBrokenRow,
  readRows,
  type ReadOptions,
  transcode,
} from './csv-reader.ts'
export { copySettings, type DecodeOptions, duckdbDecode, trinoDecode } from './decode.ts'
export { decodeField, encodeField, encodeOneRowALine, encodeRow, type RowBlock } from './dialect.ts'
export { manifestJsonSchema } from './json-schema.ts'
export {
  assertDatasetName,
  type DatasetStore,
  fileName,
  isRunId,
  ledgerKey,
  ledgerPrefix,
  listRuns,
  manifestKey,
  newRunId,
  parseManifest,
  parseRunKey,
  readManifest,
  readNewestManifest,
  type RunListing,
  runPrefix,
  writeManifest,
} from './layout.ts'
export {
  type Compression,
  type Dialect,
  type LogicalType,
  logicalTypes,
  type Manifest,
  type ManifestColumn,
  type ManifestFile,
  type ManifestFormat,
  type ManifestSnapshot,
  type ManifestSource,
  type ManifestWatermark,
  MANIFEST_VERSION,
  manifestSchema,
  type TargetType,
} from './manifest.ts'
export { type Engine, exceptionalPredicate, mapColumn, type MapOptions, type SourceColumn } from './type-map.ts'
