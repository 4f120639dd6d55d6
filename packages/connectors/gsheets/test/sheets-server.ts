import { generateKeyPairSync, randomUUID, verify } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import { createServer as createSecureServer, type ServerOptions } from 'node:https'
import type { AddressInfo } from 'node:net'

// The part of Google's HTTP contract that is read here, on loopback:
// https://developers.google.com/identity/protocols/oauth2/service-account#httprest (the token),
// https://developers.google.com/workspace/sheets/api/reference/rest/v4/spreadsheets/get and …/spreadsheets.values/get.

type Cell = string | number | boolean
/** What a cell holds, and what the sheet shows; a date holds its serial number. */
export type ServedCell = Cell | { readonly value: Cell; readonly shown: string; readonly date?: true }

export interface SheetsServer extends AsyncDisposable {
  readonly apiUrl: string
  readonly spreadsheetId: string
  readonly credentials: string
  readonly clientEmail: string
  /** By title: the cells, row by row; a row may be shorter than the sheet is wide. */
  readonly sheets: Map<
    string,
    { readonly rows: readonly (readonly ServedCell[])[]; readonly columns: number; readonly spare?: number }
  >
  /** The ranges that were asked for. */
  readonly asked: string[]
  /** What the next requests of the API are answered in place of what they ask for. */
  readonly failures: { readonly status: number; readonly body: unknown; readonly headers?: Readonly<Record<string, string>> }[]
  /** How many tokens were given; none of them is good any more after `revoke`. */
  readonly logins: number
  revoke(): void
  /** How long a token says that it is good, in seconds. */
  expiresIn: number
}

const pair = (): { publicKey: string; privateKey: string } =>
  generateKeyPairSync('rsa', {
    modulusLength: 2048,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  })

/** A key file whose key the server does not know. */
export const foreignCredentials = (credentials: string): string =>
  JSON.stringify({ ...(JSON.parse(credentials) as object), private_key: pair().privateKey })

export async function startSheetsServer(tls?: ServerOptions): Promise<SheetsServer> {
  const { publicKey, privateKey } = pair()
  const scheme = tls === undefined ? 'http' : 'https'
  const [keyId, spreadsheetId, clientEmail] = ['0a1b2c', `1Bxi-${randomUUID()}`, 'reader@project.iam.gserviceaccount.com']
  const tokens = new Set<string>()
  let logins = 0

  const login = (form: URLSearchParams, origin: string): { status: number; body: unknown } => {
    const refuse = (description: string): { status: number; body: unknown } => ({
      status: 400,
      body: { error: 'invalid_grant', error_description: description },
    })
    if (form.get('grant_type') !== 'urn:ietf:params:oauth:grant-type:jwt-bearer')
      return { status: 400, body: { error: 'unsupported_grant_type', error_description: 'Invalid grant_type' } }
    const [head = '', claims = '', signature = ''] = (form.get('assertion') ?? '').split('.')
    const read = (part: string): Record<string, unknown> =>
      JSON.parse(Buffer.from(part, 'base64url').toString()) as Record<string, unknown>
    const { alg, typ, kid } = read(head)
    const { iss, scope, aud, iat, exp } = read(claims)
    const now = Date.now() / 1000
    if (alg !== 'RS256' || typ !== 'JWT' || kid !== keyId) return refuse('Invalid JWT header.')
    if (!verify('RSA-SHA256', Buffer.from(`${head}.${claims}`), publicKey, Buffer.from(signature, 'base64url')))
      return refuse('Invalid JWT Signature.')
    if (iss !== clientEmail) return refuse('Invalid grant: account not found')
    if (aud !== `${origin}/token` || scope !== 'https://www.googleapis.com/auth/spreadsheets.readonly')
      return refuse('Invalid JWT: audience or scope')
    if (typeof iat !== 'number' || typeof exp !== 'number' || iat > now + 1 || exp < now || exp - iat > 3600)
      return refuse('Invalid JWT: Token must be a short-lived token (60 minutes)')
    const token = `ya29.${randomUUID()}`
    tokens.add(token)
    logins += 1
    return { status: 200, body: { access_token: token, expires_in: service.expiresIn, token_type: 'Bearer' } }
  }

  const error = (code: number, status: string, message: string): { status: number; body: unknown } => ({
    status: code,
    body: { error: { code, message, status } },
  })

  const answer = (url: URL, authorization: string | undefined): { status: number; body: unknown } => {
    if (!tokens.has(authorization?.replace('Bearer ', '') ?? ''))
      return error(401, 'UNAUTHENTICATED', 'Request had invalid authentication credentials.')
    const [, id, range] = /^\/v4\/spreadsheets\/([^/]+)(?:\/values\/([^/]+))?$/.exec(url.pathname) ?? []
    if (id !== spreadsheetId) return error(404, 'NOT_FOUND', 'Requested entity was not found.')
    if (range !== undefined) return values(decodeURIComponent(range), url.searchParams)
    const grids = [...service.sheets].map(([title, { rows, columns, spare = 0 }]) => ({
      properties: { title, gridProperties: { rowCount: rows.length + spare, columnCount: columns } },
    }))
    // A chart as a sheet of its own has no grid.
    return {
      status: 200,
      body: { properties: { title: 'Orders of the year' }, sheets: [...grids, { properties: { title: 'Chart' } }] },
    }
  }

  const values = (range: string, query: URLSearchParams): { status: number; body: unknown } => {
    service.asked.push(range)
    const [, title = '', from = '', first, to = '', last] = /^'(.*)'!([A-Z]+)(\d+):([A-Z]+)(\d+)$/.exec(range) ?? []
    const sheet = service.sheets.get(title.replaceAll("''", "'"))
    if (sheet === undefined) return error(400, 'INVALID_ARGUMENT', `Unable to parse range: ${range}`)
    const [left, right] = [from, to].map((name) =>
      name.split('').reduce((sum, letter) => sum * 26 + letter.charCodeAt(0) - 64, 0),
    )
    const rendered = (cell: ServedCell): Cell => {
      if (typeof cell !== 'object') return query.get('valueRenderOption') === 'FORMATTED_VALUE' ? String(cell) : cell
      const isShown =
        query.get('valueRenderOption') === 'FORMATTED_VALUE' ||
        (cell.date === true && query.get('dateTimeRenderOption') === 'FORMATTED_STRING')
      return isShown ? cell.shown : cell.value
    }
    const rows = sheet.rows.slice(Number(first) - 1, Number(last)).map((row) => {
      const cells = row.slice((left ?? 1) - 1, right).map(rendered)
      return cells.slice(0, cells.findLastIndex((cell) => cell !== '') + 1)
    })
    const full = rows.slice(0, rows.findLastIndex((row) => row.length > 0) + 1)
    return { status: 200, body: { range, majorDimension: 'ROWS', ...(full.length === 0 ? {} : { values: full }) } }
  }

  const serve = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const origin = `${scheme}://${request.headers.host ?? ''}`
    const url = new URL(request.url ?? '', origin)
    const chunks: Buffer[] = []
    for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk)
    const form = new URLSearchParams(Buffer.concat(chunks).toString())
    const failure = url.pathname === '/token' ? undefined : service.failures.shift()
    const { status, body } =
      failure ?? (url.pathname === '/token' ? login(form, origin) : answer(url, request.headers.authorization))
    response.writeHead(status, { 'content-type': 'application/json; charset=UTF-8', ...failure?.headers })
    response.end(typeof body === 'string' ? body : JSON.stringify(body))
  }

  const listener: RequestListener = (request, response) => {
    serve(request, response).catch(() => response.destroy())
  }
  const server = tls === undefined ? createServer(listener) : createSecureServer(tls, listener)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const apiUrl = `${scheme}://127.0.0.1:${(server.address() as AddressInfo).port}`
  const service: SheetsServer = {
    apiUrl,
    spreadsheetId,
    clientEmail,
    credentials: JSON.stringify({
      type: 'service_account',
      private_key_id: keyId,
      private_key: privateKey,
      client_email: clientEmail,
      token_uri: `${apiUrl}/token`,
    }),
    sheets: new Map(),
    asked: [],
    failures: [],
    get logins() {
      return logins
    },
    revoke: () => tokens.clear(),
    expiresIn: 3599,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
  return service
}
