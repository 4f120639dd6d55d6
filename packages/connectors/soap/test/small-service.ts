import { once } from 'node:events'
import { createServer as createHttp, type IncomingMessage, type RequestListener } from 'node:http'
import { createServer as createHttps, type ServerOptions } from 'node:https'
import type { AddressInfo } from 'node:net'

/** A service with one operation, `Echo`, for what the JAX-WS service does not have: other types, headers, broken answers. */
export interface SmallService extends AsyncDisposable {
  readonly url: string
  readonly requests: { readonly headers: IncomingMessage['headers']; readonly body: string }[]
  /** What the next calls are answered: the status, and the elements of the answer or a whole text. */
  answer: { readonly status: number; readonly value?: string; readonly text?: string; readonly type?: string }
}

const schema = 'http://www.w3.org/2001/XMLSchema'

export const wsdl = (address: string, types: readonly string[] = []): string => `<?xml version="1.0"?>
<definitions xmlns="http://schemas.xmlsoap.org/wsdl/" xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/" xmlns:xs="${schema}"
  xmlns:tns="urn:small" targetNamespace="urn:small" name="Small">
<types><xs:schema targetNamespace="urn:small" elementFormDefault="unqualified">
  <xs:simpleType name="Money"><xs:restriction base="xs:decimal"><xs:fractionDigits value="2"/></xs:restriction></xs:simpleType>
  <xs:element name="Echo"><xs:complexType><xs:sequence><xs:element name="value" type="xs:string"/></xs:sequence></xs:complexType></xs:element>
  <xs:element name="EchoResponse"><xs:complexType><xs:sequence>
    ${types.map((type) => `<xs:element name="${type.split(':')[1] ?? type}" type="${type}" nillable="true" minOccurs="0"/>`).join('\n    ')}
  </xs:sequence></xs:complexType></xs:element>
</xs:schema></types>
<message name="Echo"><part name="parameters" element="tns:Echo"/></message>
<message name="EchoResponse"><part name="parameters" element="tns:EchoResponse"/></message>
<portType name="Small"><operation name="Echo"><input message="tns:Echo"/><output message="tns:EchoResponse"/></operation></portType>
<binding name="Small" type="tns:Small"><soap:binding transport="http://schemas.xmlsoap.org/soap/http" style="document"/>
  <operation name="Echo"><soap:operation soapAction=""/><input><soap:body use="literal"/></input><output><soap:body use="literal"/></output></operation>
</binding>
<service name="Small"><port name="Small" binding="tns:Small"><soap:address location="${address}"/></port></service>
</definitions>`

export async function startSmallService(types: readonly string[] = [], tls?: ServerOptions): Promise<SmallService> {
  const listener: RequestListener = (request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      requests.push({ headers: request.headers, body: Buffer.concat(chunks).toString() })
      if (request.method === 'GET') response.setHeader('content-type', 'text/xml').end(wsdl(service.url, types))
      else {
        const { status, value = '', type = 'text/xml; charset=utf-8' } = service.answer
        const text = `<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/" xmlns:i="${schema}-instance"><e:Body>${value}</e:Body></e:Envelope>`
        response.writeHead(status, { 'content-type': type }).end(service.answer.text ?? text)
      }
    })
  }
  const server = tls === undefined ? createHttp(listener) : createHttps(tls, listener)
  const requests: SmallService['requests'] = []
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const service: SmallService = {
    url: `${tls === undefined ? 'http' : 'https'}://127.0.0.1:${port}/small`,
    requests,
    answer: { status: 200, value: '<t:EchoResponse xmlns:t="urn:small"/>' },
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
  return service
}
