export { connectionsApp } from './app.ts'
export { type ConnectionsCliConfig, type ConnectionsCliConfigInput, connectionsCliConfigSchema } from './config.ts'
