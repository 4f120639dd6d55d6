import { execFile } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { createConnections } from '@common-handlers/connections'
import { getGsheetsClient, gsheets, type GsheetsQuery, type GsheetsRow, testGsheetsConnection } from '@common-handlers/gsheets'
import { startFaultProxy, readmeExample } from '@common-handlers/testkit'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { type SheetsServer, startSheetsServer } from './sheets-server.ts'

const root = join(import.meta.dirname, '..')
const run = promisify(execFile)
let server: SheetsServer
let config: { spreadsheetId: string; credentials: string; apiUrl: string; pageRows: number }

beforeAll(async () => {
  server = await startSheetsServer()
  const { spreadsheetId, credentials, apiUrl } = server
  config = { spreadsheetId, credentials, apiUrl, pageRows: 2 }
  const date = { value: 45982.4375, shown: '21.11.2025 10:30', date: true } as const
  const price = { value: 1234.5678, shown: '1.234,57 €' }
  server.sheets.set('Orders', {
    rows: [['id', 'name', '', 'at'], [1, 'a', price, date], [], ['', '', true], [9007199254740991, '', '#REF!'], [5]],
    columns: 4,
    spare: 3,
  })
  server.sheets.set("It's more!", {
    rows: [
      ['x', 'x'],
      [1, 2],
    ],
    columns: 2,
  })
  server.sheets.set('Empty', { rows: [], columns: 26, spare: 1000 })
})
afterEach(() => {
  server.asked.splice(0)
  server.failures.splice(0)
  server.expiresIn = 3599
})
afterAll(() => server[Symbol.asyncDispose]())

async function rows(query: GsheetsQuery, more: object = {}): Promise<GsheetsRow[]> {
  await using client = await getGsheetsClient({ ...config, ...more }, { reuse: false })
  return await Array.fromAsync(client.rows(query))
}

describe('a range', () => {
  it('gives rows by the names of its header line, a page at a time, without the empty ones', async () => {
    expect(await rows({ range: 'Orders' })).toEqual([
      { row: 2, cells: { id: 1, name: 'a', C: 1234.5678, at: 45982.4375 } },
      { row: 4, cells: { id: null, name: null, C: true, at: null } },
      { row: 5, cells: { id: 9007199254740991, name: null, C: '#REF!', at: null } },
      { row: 6, cells: { id: 5, name: null, C: null, at: null } },
    ])
    expect(server.asked).toEqual(["'Orders'!A1:D1", "'Orders'!A2:D3", "'Orders'!A4:D5", "'Orders'!A6:D7", "'Orders'!A8:D9"])
  })

  it('gives what the cells hold or what they show, and dates as either', async () => {
    const [shown] = await rows({ range: 'Orders', cells: 'shown' })
    expect(shown?.cells).toEqual({ id: '1', name: 'a', C: '1.234,57 €', at: '21.11.2025 10:30' })
    const [dated] = await rows({ range: 'Orders', dates: 'text' })
    expect(dated?.cells).toMatchObject({ C: 1234.5678, at: '21.11.2025 10:30' })
  })

  it.each<[GsheetsQuery, number[], string]>([
    [{ range: 'Orders!A1:B' }, [2, 5, 6], "'Orders'!A8:B9"],
    [{ range: 'A1:B' }, [2, 5, 6], "'Orders'!A8:B9"],
    [{ range: 'Orders!B:C', header: false }, [1, 2, 4, 5], "'Orders'!B9:C9"],
    [{ range: 'Orders!A2:D4', header: false }, [2, 4], "'Orders'!A4:D4"],
    [{ range: 'Orders!B2', header: false }, [2], "'Orders'!B2:B2"],
    [{ range: "'It''s more!'!A2:B", header: false }, [2], "'It''s more!'!A2:B2"],
    [{ range: "It's more!", header: false }, [1, 2], "'It''s more!'!A1:B2"],
    [{ range: 'Orders', watermark: '4' }, [5, 6], "'Orders'!A9:D9"],
    [{ range: 'Orders', watermark: '6' }, [], "'Orders'!A9:D9"],
  ])('may be %j', async (query, numbers, last) => {
    expect((await rows(query)).map(({ row }) => row)).toEqual(numbers)
    expect(server.asked.at(-1)).toBe(last)
  })

  it('is refused where it is none, or has no header line that can be used', async () => {
    const wrong: [GsheetsQuery, string][] = [
      [{ range: 'Nothing' }, 'GSHEETS_RANGE_INVALID'],
      [{ range: 'Nothing!A:B' }, 'GSHEETS_RANGE_INVALID'],
      [{ range: 'Orders!1:2' }, 'GSHEETS_RANGE_INVALID'],
      [{ range: 'Orders!X:Z' }, 'GSHEETS_RANGE_INVALID'],
      [{ range: 'Chart' }, 'GSHEETS_RANGE_INVALID'],
      [{ range: "It's more!" }, 'GSHEETS_HEADER_INVALID'],
      [{ range: 'Empty' }, 'GSHEETS_HEADER_INVALID'],
      [{ range: 'Orders', watermark: 'yesterday' }, 'GSHEETS_WATERMARK_INVALID'],
      [{ range: 'Orders', watermark: '' }, 'GSHEETS_WATERMARK_INVALID'],
    ]
    for (const [query, code] of wrong) await expect(rows(query), JSON.stringify(query)).rejects.toMatchObject({ code })
  })
})

describe('the API', () => {
  const quota = { error: { code: 429, message: 'Quota exceeded for quota metric Read requests', status: 'RESOURCE_EXHAUSTED' } }

  it('is asked again, no sooner than it says, when a quota is used up', async () => {
    await using client = await getGsheetsClient(config, { reuse: false })
    server.failures.push({ status: 429, body: quota, headers: { 'retry-after': '1' } }, { status: 503, body: 'oops' })
    const began = performance.now()
    expect((await client.describe()).title).toBe('Orders of the year')
    expect(performance.now() - began).toBeGreaterThan(990)
    await using hasty = await getGsheetsClient({ ...config, attempts: 1 }, { reuse: false })
    server.failures.push({ status: 429, body: quota })
    await expect(hasty.describe()).rejects.toMatchObject({ code: 'GSHEETS_QUOTA', outcome: 'capacity', retry: 'safe' })
  })

  it('gets a token once, a new one before it ends, and one more where it was taken back', async () => {
    await using client = await getGsheetsClient(config, { reuse: false })
    const before = server.logins
    await client.describe()
    expect(server.logins - before).toBe(0)
    server.revoke()
    await client.describe()
    expect(server.logins - before).toBe(1)
    server.expiresIn = 60
    server.revoke()
    await client.describe()
    await client.describe()
    expect(server.logins - before).toBe(3)
    const unauthorized = { error: { code: 401, message: 'no', status: 'UNAUTHENTICATED' } }
    server.failures.push({ status: 401, body: unauthorized }, { status: 401, body: unauthorized })
    await expect(client.describe()).rejects.toMatchObject({ code: 'GSHEETS_UNAUTHORIZED', outcome: 'auth' })
  })

  it('says that a spreadsheet is not there, or not shared', async () => {
    await expect(rows({ range: 'Orders' }, { spreadsheetId: 'none' })).rejects.toMatchObject({ code: 'GSHEETS_NOT_FOUND' })
    await using client = await getGsheetsClient(config, { reuse: false })
    server.failures.push({
      status: 403,
      body: { error: { code: 403, message: 'The caller does not have permission', status: 'PERMISSION_DENIED' } },
    })
    await expect(client.describe()).rejects.toMatchObject({
      code: 'GSHEETS_FORBIDDEN',
      message: expect.stringContaining('share the spreadsheet with the service account') as string,
    })
    for (const body of ['<html>', '[]', { properties: {} }]) {
      server.failures.push({ status: 200, body })
      await expect(client.describe()).rejects.toMatchObject({ code: 'GSHEETS_ANSWER_INVALID', outcome: 'data' })
    }
  })

  it('is asked again when it went away in the middle of a page', async () => {
    await using proxy = await startFaultProxy({ host: '127.0.0.1', port: Number(new URL(config.apiUrl).port) })
    const apiUrl = `http://127.0.0.1:${proxy.port}`
    await using client = await getGsheetsClient({ ...config, apiUrl }, { reuse: false })
    const read = client.rows({ range: 'Orders' })
    await read.next()
    proxy.limitBytes(100, { direction: 'to-client', once: true })
    proxy.cut()
    expect((await Array.fromAsync(read)).map(({ row }) => row)).toEqual([4, 5, 6])
  })
})

describe('credentials', () => {
  it.each([
    ['no JSON', 'expected the JSON text'],
    ['{"type":"authorized_user"}', '"service_account"'],
    ['{"type":"service_account"}', 'client_email and private_key'],
    ['{"type":"service_account","client_email":"a","private_key":"b","token_uri":"http://example.com/"}', 'token_uri'],
    ['{"type":"service_account","client_email":"a","private_key":"-----BEGIN horse"}', 'private_key is no key'],
  ])('%s are refused, and not shown', async (credentials, message) => {
    const error: unknown = await getGsheetsClient({ ...config, credentials }).catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringContaining(message) as string })
    expect(JSON.stringify(error)).not.toContain('horse')
  })
})

it('is tested step by step', async () => {
  const { steps } = await testGsheetsConnection(config)
  const port = new URL(config.apiUrl).port
  expect(steps.map(({ name, detail }) => [name, detail])).toEqual([
    ['read the configuration', undefined],
    ['find 127.0.0.1', '127.0.0.1'],
    [`reach port ${port}`, undefined],
    [`log in as ${server.clientEmail}`, undefined],
    [`open ${config.spreadsheetId}`, "Orders of the year: Orders (9 rows), It's more! (2 rows), Empty (1000 rows)"],
  ])
})

it('trusts no certificate that nobody here vouches for, unless ca does', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'gsheets-'))
  const [key, certificate] = [join(folder, 'server.key'), join(folder, 'server.pem')]
  await run('openssl', [
    ...'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost'.split(' '),
    ...`-addext subjectAltName=IP:127.0.0.1 -keyout ${key} -out ${certificate}`.split(' '),
  ])
  const ca = await readFile(certificate, 'utf8')
  await using secure = await startSheetsServer({ key: await readFile(key), cert: ca })
  await rm(folder, { recursive: true })
  const { spreadsheetId, credentials, apiUrl } = secure
  await expect(getGsheetsClient({ spreadsheetId, credentials, apiUrl })).rejects.toMatchObject({
    code: 'GSHEETS_TLS_FAILED',
    retry: 'never',
  })
  const { steps } = await testGsheetsConnection({ spreadsheetId, credentials, apiUrl })
  expect(steps.at(-1)?.error?.code).toBe('CONNECTIONS_CERTIFICATE_UNTRUSTED')
  expect(secure.logins).toBe(0)
  await using client = await getGsheetsClient({ spreadsheetId, credentials, apiUrl, ca })
  expect((await client.describe()).title).toBe('Orders of the year')
})

it('takes the address of a spreadsheet', async () => {
  await using connections = createConnections({ connectors: [gsheets], variables: { GSHEETS_CREDENTIALS: config.credentials } })
  for (const url of ['https://docs.google.com/spreadsheets/d/1Bxi-x/edit?usp=sharing&gid=7#gid=7', 'gsheets:1Bxi-x']) {
    const explained = await connections.explain('gsheets', url)
    expect(explained).toContainEqual({ key: 'spreadsheetId', value: '1Bxi-x', origin: 'config' })
    expect(explained).toContainEqual({ key: 'credentials', value: '[secret]', origin: 'environment GSHEETS_CREDENTIALS' })
  }
})

it('has example files that its schema takes', async () => {
  const names = (await readdir(join(root, 'examples'))).filter((name) => /\.(json|yaml)$/.test(name))
  expect(names).toHaveLength(2)
  const resolvers = { file: () => config.credentials }
  await using connections = createConnections({ connectors: [gsheets], variables: {}, resolvers })
  for (const name of names) {
    const explained = await connections.explain('gsheets', {}, { file: join(root, 'examples', name) })
    expect(explained.find(({ key }) => key === 'spreadsheetId')?.value).toMatch(/^1Bxi/)
  }
})

it('the example of README.md', async () => {
  const code = await readmeExample(root)
  const { stdout } = await run(
    process.execPath,
    ['--conditions=@common-handlers/source', '--input-type=module-typescript', '-e', code],
    {
      cwd: root,
      env: {
        ...process.env,
        GSHEETS_API_URL: config.apiUrl,
        GSHEETS_CREDENTIALS: config.credentials,
        GSHEETS_SPREADSHEET_ID: config.spreadsheetId,
      },
    },
  )
  expect(stdout).toBe(`2 { id: 1, name: 'a' }\n5 { id: 9007199254740991, name: null }\n6 { id: 5, name: null }\n0\n`)
})
