export type { GsheetsCell, GsheetsClient, GsheetsQuery, GsheetsRow, Sheet, Spreadsheet } from './client.ts'
export { type GsheetsConfig, type GsheetsConfigInput, gsheetsConfigSchema } from './config.ts'
export { getGsheetsClient, gsheets, testGsheetsConnection } from './connector.ts'
