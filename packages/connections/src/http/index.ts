export { type HttpConfig, type HttpConfigInput, httpConfigSchema } from '../config.ts'
export { HttpClient, type RestRequest, type RestResponse, type RestStream } from './client.ts'
export { HttpFiles } from './files.ts'
export { reachSteps } from './reach.ts'
