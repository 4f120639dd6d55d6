export { type LogicalType, logicalTypes, type Manifest, type ManifestColumn, type ManifestFile, MANIFEST_VERSION, manifestSchema } from './manifest.ts'
