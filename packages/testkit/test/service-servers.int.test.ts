import { once } from 'node:events'
import { connect } from 'node:net'
import { describeWith, startMongoJavaServer, startSoap } from '@common-handlers/testkit'
import { afterAll, expect, it } from 'vitest'
import { cleanEnd, endOf } from './end-of-server.ts'

describeWith([], 'startSoap', async () => {
  const server = await startSoap()
  afterAll(() => server.stop())

  it('answers, with faults, and asks for a login', async () => {
    const call = async (body: string, password = server.password): Promise<string> => {
      const envelope = `<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/" xmlns:o="urn:orders"><e:Body>${body}</e:Body></e:Envelope>`
      const headers = { authorization: `Basic ${btoa(`${server.user}:${password}`)}`, 'content-type': 'text/xml' }
      const response = await fetch(server.url, { method: 'POST', headers, body: envelope })
      return `${response.status} ${await response.text()}`
    }
    const orders = '<o:GetOrders><since>3</since><count>1</count></o:GetOrders>'
    const order = `<id>3</id><name>n &amp; &lt;3&gt;</name><at>1970-01-01T00:00:03Z</at><total>12345678901234567890.12</total>`
    expect(await call(orders)).toContain(`<return>${order}</return>`)
    expect(await call('<o:Fail><message>no such order</message></o:Fail>')).toMatch(/^500 .*<faultstring>no such order</)
    expect(await call(orders, 'wrong')).toMatch(/^401/)
    expect((await fetch(server.wsdlUrl)).status).toBe(401)
  })

  it('ends', async () => {
    expect(await endOf(server)).toEqual(cleanEnd)
  })
})

describeWith([], 'startMongoJavaServer', async () => {
  const server = await startMongoJavaServer()
  afterAll(() => server.stop())

  it('says it is MongoDB 5.0 does', async () => {
    const socket = connect(Number(new URL(server.url).port), '127.0.0.1')
    // { isMaster: 1, $db: 'admin' } as an OP_MSG with one section.
    const int32 = (value: number): string => `${String.fromCodePoint(value)}\0\0\0`
    const document = `\u0010isMaster\0${int32(1)}\u0002$db\0${int32(6)}admin\0\0`
    const section = `\0${int32(document.length + 4)}${document}`
    const message = `${int32(1)}${int32(0)}\u00dd\u0007\0\0${int32(0)}${section}`
    socket.write(Buffer.from(int32(message.length + 4) + message, 'latin1'))
    const [answer] = (await once(socket, 'data')) as [Buffer]
    socket.destroy()
    expect(answer.toString('latin1')).toContain(`maxWireVersion\0${int32(13)}`)
  })

  it('ends', async () => {
    expect(await endOf(server)).toEqual(cleanEnd)
  })
})
