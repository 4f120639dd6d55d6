#!/usr/bin/env node
import { main } from '@common-handlers/cli'
import { ingestorApp } from './app.ts'

await main(ingestorApp)
