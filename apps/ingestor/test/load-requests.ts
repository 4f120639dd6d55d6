import type { GateRequest } from './http-gate.ts'

/** The POST of the statement that makes the rows visible. */
export const isLoad = ({ line, body }: GateRequest): boolean =>
  line === 'POST /v1/statement' && /^(MERGE|INSERT|CREATE OR REPLACE)/.test(body)

/** A write of the ledger, by the state that is written. */
export const isLedger = ({ line, body }: GateRequest, state: string): boolean =>
  line.startsWith('PUT /') && body.includes(`"state": "${state}"`)

/** True for the n-th GET of the statement that loads; the first one begins it. */
export function nthGet(number: number): (request: GateRequest) => boolean {
  let loading = false
  let gets = 0
  return (request) => {
    if (isLoad(request)) loading = true
    return loading && request.line.startsWith('GET /v1/statement/') && ++gets === number
  }
}

/** True for the n-th look at the table; the first one comes before the claim. */
export function nthDescribe(number: number): (request: GateRequest) => boolean {
  let seen = 0
  return ({ line, body }) => line === 'POST /v1/statement' && body.startsWith('DESCRIBE') && ++seen === number
}
