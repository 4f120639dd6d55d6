export type { NewprotocolClient, NewprotocolQuery, NewprotocolRow } from './client.ts'
export { type NewprotocolConfig, type NewprotocolConfigInput, newprotocolConfigSchema } from './config.ts'
export { getNewprotocolClient, newprotocol, testNewprotocolConnection } from './connector.ts'
