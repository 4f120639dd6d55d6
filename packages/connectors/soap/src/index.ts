export type { SoapCallOptions, SoapClient, SoapRecord, SoapValue } from './client.ts'
export { type SoapConfig, type SoapConfigInput, soapConfigSchema } from './config.ts'
export { getSoapClient, soap, type SoapQuery, type SoapRecordsQuery, testSoapConnection } from './connector.ts'
