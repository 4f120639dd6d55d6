#!/usr/bin/env node
import { main } from '@common-handlers/cli'
import { extractorApp } from './app.ts'

await main(extractorApp)
