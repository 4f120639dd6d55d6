#!/usr/bin/env node
import { main } from '@common-handlers/cli/main'

await main(async () => (await import('./app.ts')).connectionsApp)
