import { SaxesParser } from 'saxes'

/** One resource of an answer (RFC 4918 section 14.24), with the properties that were found. */
export interface Resource {
  /** As the server wrote it: a path or a URL, encoded. */
  readonly href: string
  /** Of the resource as a whole, where the server says one: `HTTP/1.1 403 Forbidden`. */
  readonly status: string | undefined
  readonly isFolder: boolean
  /** By their local names: `getcontentlength`, `getlastmodified`. */
  readonly properties: ReadonlyMap<string, string>
}

/** What is asked for (section 14.20). */
export const PROPFIND =
  '<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/><getlastmodified/><getetag/><getcontenttype/></prop></propfind>'

const DAV = 'DAV:'

/** Reads a `multistatus`, whatever its prefixes. Throws where it is no XML, or XML of something else. */
export function readMultistatus(xml: string): Resource[] {
  const resources: Resource[] = []
  const path: string[] = []
  let text = ''
  let root = ''
  let href = ''
  let status: string | undefined
  let isFolder = false
  const properties = new Map<string, string>()
  // A property counts only if the status of its group says that it was found; that comes behind it.
  let group = new Map<string, string>()
  let groupIsFolder = false

  const parser = new SaxesParser({ xmlns: true })
  parser.on('error', (error) => {
    throw error
  })
  parser.on('opentag', ({ local, uri }) => {
    const name = uri === DAV ? local : `{${uri}}${local}`
    if (path.length === 0) root = name
    path.push(name)
    text = ''
    if (path.join('/').endsWith('prop/resourcetype/collection')) groupIsFolder = true
  })
  const add = (more: string): void => {
    text += more
  }
  parser.on('text', add)
  parser.on('cdata', add)
  parser.on('closetag', () => {
    const name = path.pop() ?? ''
    const above = path.join('/')
    const said = text.trim()
    text = ''
    if (above === 'multistatus/response' && name === 'href') href = said
    else if (above === 'multistatus/response' && name === 'status') status = said
    else if (above === 'multistatus/response/propstat/prop') group.set(name, said)
    else if (above === 'multistatus/response/propstat' && name === 'status') {
      if (/^HTTP\/\S+ 2\d\d\b/.test(said)) {
        for (const [property, value] of group) properties.set(property, value)
        isFolder ||= groupIsFolder
      }
    } else if (above === 'multistatus/response' && name === 'propstat') {
      group = new Map()
      groupIsFolder = false
    } else if (above === 'multistatus' && name === 'response') {
      resources.push({ href, status, isFolder, properties: new Map(properties) })
      href = ''
      status = undefined
      isFolder = false
      properties.clear()
    }
  })
  parser.write(xml).close()
  if (root !== 'multistatus') throw new Error(`its root is ${root}, and not multistatus`)
  return resources
}
