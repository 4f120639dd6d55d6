import { describe, expect, it } from 'vitest'
import { readMultistatus } from '../src/multistatus.ts'

const ok = '<D:status>HTTP/1.1 200 OK</D:status>'
const missing = '<D:status>HTTP/1.1 404 Not Found</D:status>'
const answer = (responses: string): string => `<?xml version="1.0"?><D:multistatus xmlns:D="DAV:">${responses}</D:multistatus>`

describe('an answer of many parts', () => {
  it('is read by its names, whatever their prefixes', () => {
    const xml = `<?xml version="1.0" encoding="utf-8"?>
      <multistatus xmlns="DAV:" xmlns:lp1="DAV:" xmlns:x="urn:other">
        <response><href> /dav/a%20b/ </href><propstat><prop><lp1:resourcetype><lp1:collection/></lp1:resourcetype></prop>
          <status>HTTP/1.1 200 OK</status></propstat></response>
        <response><href><![CDATA[/dav/x&y]]></href><propstat><prop><resourcetype/><x:getetag>not this</x:getetag>
          <getetag>"1&amp;2"</getetag></prop><status>HTTP/1.1 200 OK</status></propstat></response>
      </multistatus>`
    const [folder, file] = readMultistatus(xml)
    expect(folder).toMatchObject({ href: '/dav/a%20b/', isFolder: true })
    expect(file).toMatchObject({ href: '/dav/x&y', isFolder: false })
    expect(file?.properties.get('getetag')).toBe('"1&2"')
  })

  it('takes no property that was not found, in whatever order they are told', () => {
    const xml = answer(`<D:response><D:href>/a</D:href>
      <D:propstat><D:prop><D:getcontentlength>1</D:getcontentlength><D:resourcetype><D:collection/></D:resourcetype></D:prop>${missing}</D:propstat>
      <D:propstat><D:prop><D:getetag>"e"</D:getetag></D:prop>${ok}</D:propstat></D:response>
      <D:response><D:href>/b</D:href><D:status>HTTP/1.1 403 Forbidden</D:status></D:response>`)
    const [one, other] = readMultistatus(xml)
    expect([...(one?.properties ?? [])]).toEqual([['getetag', '"e"']])
    expect(one?.isFolder).toBe(false)
    expect(other).toMatchObject({ href: '/b', status: 'HTTP/1.1 403 Forbidden' })
    expect(other?.properties.size).toBe(0)
  })

  it.each([
    ['<html><body>hello</body></html>', 'its root is {}html'],
    ['<D:multistatus xmlns:D="urn:other"/>', '{urn:other}multistatus'],
    [answer('<D:response>'), 'unexpected close tag'],
    ['', 'document must contain a root element'],
    [
      '<!DOCTYPE m [<!ENTITY a "b">]><D:multistatus xmlns:D="DAV:"><D:response><D:href>&a;</D:href></D:response></D:multistatus>',
      'undefined entity',
    ],
  ])('is none where it says %s', (xml, why) => {
    expect(() => readMultistatus(xml)).toThrow(why)
  })
})
