import { createConnections } from '@common-handlers/connections'
import { getSoapClient, soap, testSoapConnection } from '@common-handlers/soap'
import { describeWith, startFaultProxy, startSoap } from '@common-handlers/testkit'
import { afterAll, expect, it } from 'vitest'

describeWith([], 'a SOAP service (JAX-WS)', async () => {
  const server = await startSoap()
  const { wsdlUrl, url, user: username, password } = server
  const config = { wsdlUrl, username, password }
  const { port } = new URL(url)
  afterAll(() => server.stop())

  it('gives exact values, by their types', async () => {
    await using client = await getSoapClient(config)
    const { return: orders } = await client.call('GetOrders', { since: 7, count: 2 })
    expect(orders).toEqual([
      { at: expect.stringMatching(/^1970-01-01T\d\d:00:07/) as string, id: 7, name: 'n & <7>', total: '12345678901234567890.12' },
      { at: expect.stringMatching(/^1970-01-01T\d\d:00:08/) as string, id: 8, name: 'n & <8>', total: '12345678901234567890.12' },
    ])
    expect(await client.call('GetOrders', { since: 7, count: 1 })).toMatchObject({ return: [{ id: 7 }] })
  })

  it('sends texts as they are', async () => {
    await using client = await getSoapClient(config)
    const message = ` <&> "Größe" ]]> ${'é'.repeat(70_000)} `
    await expect(client.call('Fail', { message })).rejects.toThrow(message.slice(0, 30))
  })

  it('fetches no items where there are none, and the whole answer where no list is named', async () => {
    await using connections = createConnections({ connectors: [soap], variables: {} })
    await using connector = await connections.createConnector({ protocol: 'soap', ...config })
    const nothing = { operation: 'GetOrders', args: { since: 1, count: 0 }, items: 'return' }
    expect((await connector.fetchData(nothing)).items).toEqual([])
    const whole = await connector.fetchData({ operation: 'Wait', args: { milliseconds: 0 } })
    expect(whole.items).toMatchObject([{ source: `${url}#Wait`, data: { return: 'waited' }, lineage: { query: 'Wait' } }])
    await expect(connector.fetchData({ operation: 'Wait', args: { milliseconds: 0 }, items: 'return' })).rejects.toMatchObject({
      code: 'SOAP_ANSWER_INVALID',
    })
  })

  it('makes an error of a fault, and says which operations there are', async () => {
    await using client = await getSoapClient(config)
    await expect(client.call('Fail', { message: 'out of paper' })).rejects.toMatchObject({
      code: 'SOAP_FAULT',
      outcome: 'remote',
      retry: 'if-idempotent',
      serverCode: expect.stringMatching(/Server$/) as string,
      message: expect.stringContaining('out of paper') as string,
    })
    await expect(client.call('GetNothing')).rejects.toMatchObject({
      code: 'SOAP_OPERATION_UNKNOWN',
      message: expect.stringContaining('Fail, GetOrders, Wait') as string,
    })
  })

  it('is tested step by step', async () => {
    const { steps } = await testSoapConnection(config)
    expect(steps.map(({ name, detail }) => [name, detail])).toEqual([
      ['read the configuration', undefined],
      ['find 127.0.0.1', '127.0.0.1'],
      [`reach port ${port}`, undefined],
      ['read the description', '3 operations: Fail, GetOrders, Wait'],
    ])
    const wrong = await testSoapConnection({ ...config, password: 'wrong horse' })
    expect(wrong.steps.at(-1)).toMatchObject({ name: 'read the description', error: { code: 'SOAP_UNAUTHORIZED' } })
  })

  it('ends a call by its time limit and by its signal', async () => {
    await using client = await getSoapClient(config)
    const wait = { milliseconds: 60_000 }
    await expect(client.call('Wait', wait, { timeoutMs: 200 })).rejects.toMatchObject({
      code: 'SOAP_TIMEOUT',
      outcome: 'timeout',
    })
    const abort = new AbortController()
    const reason = new RangeError('changed my mind')
    setTimeout(() => abort.abort(reason), 100)
    await expect(client.call('Wait', wait, { signal: abort.signal })).rejects.toBe(reason)
    await using hasty = await getSoapClient({ ...config, timeoutMs: 200 })
    await expect(hasty.call('Wait', wait)).rejects.toMatchObject({ code: 'SOAP_TIMEOUT' })
  })

  it('says that the service went away in the middle of an answer, and reads again what may be read again', async () => {
    await using proxy = await startFaultProxy({ host: '127.0.0.1', port: Number(port) })
    const through = {
      ...config,
      wsdlUrl: `http://127.0.0.1:${proxy.port}/orders?wsdl`,
      endpoint: `http://127.0.0.1:${proxy.port}/orders`,
    }
    await using client = await getSoapClient(through)
    proxy.limitBytes(20_000, { direction: 'to-client', once: true })
    const args = { since: 1, count: 1000 }
    await expect(client.call('GetOrders', args)).rejects.toMatchObject({ code: 'SOAP_CONNECTION_LOST', retry: 'if-idempotent' })
    proxy.limitBytes(20_000, { direction: 'to-client', once: true })
    expect((await client.call('GetOrders', args, { idempotent: true }))['return']).toHaveLength(1000)
    await proxy.refuse()
    await expect(client.call('GetOrders', args)).rejects.toMatchObject({ code: 'SOAP_UNREACHABLE', retry: 'safe' })
  })

  it('reads no answer that is larger than it may be', async () => {
    await using client = await getSoapClient({ ...config, maxBodyBytes: 50_000 })
    await expect(client.call('GetOrders', { since: 1, count: 10_000 })).rejects.toMatchObject({
      code: 'SOAP_BODY_TOO_LARGE',
      outcome: 'capacity',
    })
  })
})
