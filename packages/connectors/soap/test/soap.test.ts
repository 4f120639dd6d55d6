import { readmeExample } from '@common-handlers/testkit'
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { createConnections } from '@common-handlers/connections'
import { getSoapClient, soap, testSoapConnection } from '@common-handlers/soap'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startSmallService, wsdl } from './small-service.ts'

const root = join(import.meta.dirname, '..')
const run = promisify(execFile)
let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'soap-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

describe('a value', () => {
  it.each([
    ['decimal', '12345678901234567890.12', '12345678901234567890.12'],
    ['decimal', '0.10', '0.10'],
    ['long', '9007199254740993', 9007199254740993n],
    ['unsignedLong', '18446744073709551615', 18446744073709551615n],
    ['integer', '+123456789012345678901', 123456789012345678901n],
    ['int', '-2147483648', -2147483648],
    ['double', '-INF', -Infinity],
    ['float', '1.5', 1.5],
    ['boolean', '1', true],
    ['dateTime', '2026-11-21T10:00:00.123456789+01:00', '2026-11-21T10:00:00.123456789+01:00'],
    ['date', '2026-11-21', '2026-11-21'],
    ['base64Binary', 'AP8=', new Uint8Array([0, 255])],
    ['hexBinary', '00FF', new Uint8Array([0, 255])],
    ['string', '  a &lt;b&gt; <![CDATA[ & c ]]>', '  a <b>  & c '],
    ['string', '', ''],
    ['tns:Money', '12345678901234567890.10', '12345678901234567890.10'],
  ])('of %s is exact: %s', async (name, sent, expected) => {
    const type = name.includes(':') ? name : `xs:${name}`
    const element = type.split(':')[1] ?? ''
    await using service = await startSmallService([type])
    service.answer = {
      status: 200,
      value: `<t:EchoResponse xmlns:t="urn:small"><${element}>${sent}</${element}></t:EchoResponse>`,
    }
    await using client = await getSoapClient({ wsdlUrl: `${service.url}?wsdl` })
    expect((await client.call('Echo', { value: 'x' }))[element]).toEqual(expected)
    service.answer = { status: 200, value: `<t:EchoResponse xmlns:t="urn:small"><${element} i:nil="true"/></t:EchoResponse>` }
    expect(await client.call('Echo', { value: 'x' })).toEqual({ [element]: null })
  })

  it('with attributes is a record of both', async () => {
    await using service = await startSmallService(['xs:decimal'])
    const element = '<decimal currency="EUR">12345678901234567890.10</decimal>'
    service.answer = { status: 200, value: `<t:EchoResponse xmlns:t="urn:small">${element}</t:EchoResponse>` }
    await using client = await getSoapClient({ wsdlUrl: `${service.url}?wsdl` })
    expect(await client.call('Echo', { value: 'x' })).toEqual({
      decimal: { attributes: { currency: 'EUR' }, $value: '12345678901234567890.10' },
    })
  })

  it('keeps its digits as an argument', async () => {
    await using service = await startSmallService()
    await using client = await getSoapClient({ wsdlUrl: `${service.url}?wsdl` })
    await client.call('Echo', { value: 9007199254740993n })
    await client.call('Echo', { value: '0.10 <&>' })
    expect(service.requests.slice(-2).map(({ body }) => /<value>(.*)<\/value>/.exec(body)?.[1])).toEqual([
      '9007199254740993',
      '0.10 &lt;&amp;&gt;',
    ])
  })
})

describe('the login', () => {
  const login = { username: 'reader <&>', password: 'correct horse & <battery>' }

  it('is a digest of WS-Security, with which no password is sent', async () => {
    await using service = await startSmallService()
    await using client = await getSoapClient({ wsdlUrl: `${service.url}?wsdl`, ...login, login: 'ws-security-digest' })
    await client.call('Echo', { value: 'x' })
    const { body = '', headers = {} } = service.requests.at(-1) ?? {}
    const found = (name: string): string =>
      new RegExp(`<wss?[eu]:${name}[^>]*>([^<]*)</wss?[eu]:${name}>`).exec(body.split('UsernameToken')[1] ?? '')?.[1] ?? ''
    // OASIS username token profile 1.1.1 section 3.1: Base64(SHA-1(nonce + created + password)).
    const nonce = Buffer.from(found('Nonce'), 'base64')
    const digest = createHash('sha1').update(nonce).update(found('Created')).update(login.password).digest('base64')
    expect([found('Username'), found('Password'), nonce.length]).toEqual(['reader &lt;&amp;&gt;', digest, 16])
    expect([body.includes('battery'), headers.authorization]).toEqual([false, undefined])
    await client.call('Echo', { value: 'x' })
    expect(service.requests.at(-1)?.body).not.toContain(found('Nonce'))
  })

  it('is a text of WS-Security, or basic authentication for the description, too', async () => {
    await using service = await startSmallService()
    await using token = await getSoapClient({ wsdlUrl: `${service.url}?wsdl`, ...login, login: 'ws-security-text' })
    await token.call('Echo', { value: 'x' })
    expect(service.requests.at(-1)?.body).toContain('#PasswordText">correct horse &amp; &lt;battery&gt;</wsse:Password>')
    service.requests.splice(0)
    await using basic = await getSoapClient({ wsdlUrl: `${service.url}?wsdl`, ...login })
    await basic.call('Echo', { value: 'x' })
    const expected = `Basic ${Buffer.from(`${login.username}:${login.password}`).toString('base64')}`
    expect(service.requests.map(({ headers }) => headers.authorization)).toEqual([expected, expected])
  })

  it('goes to no other host than that of the description and of the endpoint', async () => {
    await using other = await startSmallService()
    const file = join(folder, 'elsewhere.wsdl')
    await writeFile(file, wsdl(other.url))
    await using client = await getSoapClient({ wsdlUrl: file, ...login })
    await client.call('Echo', { value: 'x' })
    await using named = await getSoapClient({ wsdlUrl: file, endpoint: other.url, ...login })
    await named.call('Echo', { value: 'x' })
    expect(other.requests.map(({ headers }) => headers.authorization !== undefined)).toEqual([false, true])
  })

  it('that is refused by a fault is an error of the login, and shows no password', async () => {
    await using service = await startSmallService()
    await using client = await getSoapClient({ wsdlUrl: `${service.url}?wsdl`, ...login, login: 'ws-security-text' })
    const value = '<e:Fault><faultcode>wsse:FailedAuthentication</faultcode><faultstring>no</faultstring></e:Fault>'
    service.answer = { status: 500, value }
    const error: unknown = await client.call('Echo').catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: 'SOAP_LOGIN_REFUSED', outcome: 'auth' })
    expect(JSON.stringify(error)).not.toContain('battery')
  })
})

describe('what is no answer', () => {
  it.each([
    ['a page', { status: 200, text: '<html><p>Sorry<br></html>', type: 'text/html' }, 'SOAP_ANSWER_INVALID'],
    [
      'half an envelope',
      { status: 200, text: '<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body>' },
      'SOAP_ANSWER_INVALID',
    ],
    ['a page of a server that failed', { status: 500, text: 'oops', type: 'text/plain' }, 'SOAP_SERVER_FAILED'],
    ['a login page', { status: 401, text: '<html/>', type: 'application/xhtml+xml' }, 'SOAP_UNAUTHORIZED'],
    ['too busy', { status: 429, text: '' }, 'SOAP_RATE_LIMITED'],
    ['not there', { status: 404, text: '<html/>', type: 'application/xhtml+xml' }, 'SOAP_NOT_FOUND'],
    ['failed, with a page', { status: 500, text: '<html/>', type: 'application/xhtml+xml' }, 'SOAP_SERVER_FAILED'],
    ['failed, with something else in XML', { status: 500, text: '<error/>' }, 'SOAP_ANSWER_INVALID'],
  ])('%s', async (_title, answer, code) => {
    await using service = await startSmallService()
    await using client = await getSoapClient({ wsdlUrl: `${service.url}?wsdl`, attempts: 1 })
    service.answer = answer
    await expect(client.call('Echo', { value: 'x' })).rejects.toMatchObject({ code })
  })

  it('and no description either', async () => {
    const wrong = {
      'page.wsdl': '<html><p>Log in</p></html>',
      'cut.wsdl': wsdl('http://localhost/').slice(0, 900),
      'empty.wsdl': '',
    }
    for (const [name, text] of Object.entries(wrong)) {
      await writeFile(join(folder, name), text)
      await expect(getSoapClient({ wsdlUrl: join(folder, name) }), name).rejects.toMatchObject({ code: 'SOAP_WSDL_INVALID' })
    }
    await expect(getSoapClient({ wsdlUrl: join(folder, 'none.wsdl') })).rejects.toMatchObject({ code: 'SOAP_WSDL_NOT_FOUND' })
  })
})

describe('a certificate', () => {
  it('that nobody here vouches for is not trusted, unless ca does', async () => {
    const [key, certificate] = [join(folder, 'server.key'), join(folder, 'server.pem')]
    await run('openssl', [
      ...'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost'.split(' '),
      ...`-addext subjectAltName=IP:127.0.0.1 -keyout ${key} -out ${certificate}`.split(' '),
    ])
    const ca = await readFile(certificate, 'utf8')
    await using service = await startSmallService([], { key: await readFile(key), cert: ca })
    const config = { wsdlUrl: `${service.url}?wsdl`, username: 'me', password: 'not for strangers' }
    await expect(getSoapClient(config)).rejects.toMatchObject({ code: 'SOAP_TLS_FAILED', retry: 'never' })
    const { steps } = await testSoapConnection(config)
    expect(steps.at(-1)).toMatchObject({ name: 'trust the certificate', error: { code: 'CONNECTIONS_CERTIFICATE_UNTRUSTED' } })
    expect(service.requests).toEqual([])
    await using client = await getSoapClient({ ...config, ca })
    expect(await client.operations()).toEqual(['Echo'])
  })
})

it('has example files that its schema takes', async () => {
  const names = (await readdir(join(root, 'examples'))).filter((name) => /\.(json|yaml)$/.test(name))
  expect(names).toHaveLength(2)
  await using connections = createConnections({ connectors: [soap], variables: {}, resolvers: { file: () => 'a secret' } })
  for (const name of names) {
    const explained = await connections.explain('soap', {}, { file: join(root, 'examples', name) })
    expect(explained.find(({ key }) => key === 'wsdlUrl')?.value).toBe('https://example.com/orders?wsdl')
  }
})

it('loads its driver with the first client', async () => {
  const code = `
    import { createRequire } from 'node:module'
    import { getSoapClient } from '@common-handlers/soap'
    const loaded = () => Object.keys(createRequire('file:///x').cache).some((file) => file.includes('/node_modules/soap/'))
    const before = loaded()
    await getSoapClient({ wsdlUrl: '/nowhere' }).catch(() => undefined)
    console.log(before, loaded())`
  const args = ['--conditions=@common-handlers/source', '--input-type=module', '-e', code]
  expect((await run(process.execPath, args, { cwd: root })).stdout).toBe('false true\n')
})

it('the example of README.md', async () => {
  await using service = await startSmallService(['xs:long'])
  service.answer = { status: 200, value: '<t:EchoResponse xmlns:t="urn:small"><long>9007199254740993</long></t:EchoResponse>' }
  const code = await readmeExample(root)
  const { stdout } = await run(
    process.execPath,
    ['--conditions=@common-handlers/source', '--input-type=module-typescript', '-e', code],
    { cwd: root, env: { ...process.env, SOAP_WSDL_URL: `${service.url}?wsdl` } },
  )
  expect(stdout).toBe(`[ 'Echo' ]\n{ long: 9007199254740993n }\n`)
})
