// S3's answers are flat: a few names, each with text or with one level of names below. No parser is needed to read them.

/** The text of the first element of that name, its entities resolved; undefined where there is none. */
export function textOf(xml: string, name: string): string | undefined {
  const marks = marksOf(name)
  const begin = beginOf(xml, marks, 0)
  const end = endOf(xml, marks, begin)
  return end === -1 ? undefined : unescapeXml(xml.slice(begin, end))
}

/** What stands inside each element of that name. */
export function elements(xml: string, name: string): string[] {
  const marks = marksOf(name)
  const found: string[] = []
  for (let from = 0; ;) {
    const begin = beginOf(xml, marks, from)
    const end = endOf(xml, marks, begin)
    if (end === -1) return found
    found.push(xml.slice(begin, end))
    from = end
  }
}

export function escapeXml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')
}

interface Marks {
  readonly open: string
  readonly close: string
}

/** Made once for each name: a list asks for four of each object. */
const allMarks = new Map<string, Marks>()

function marksOf(name: string): Marks {
  let marks = allMarks.get(name)
  if (marks === undefined) {
    marks = { open: `<${name}`, close: `</${name}>` }
    allMarks.set(name, marks)
  }
  return marks
}

const CLOSE = 62
const SPACE = 32
const SLASH = 47

/** Where the inside of the next element begins; -1 where there is none. */
function beginOf(xml: string, { open }: Marks, from: number): number {
  for (let at = xml.indexOf(open, from); at !== -1; at = xml.indexOf(open, at + 1)) {
    // The name may go on (`<KeyCount>`), have attributes, or be empty (`<ETag/>`).
    const after = xml.charCodeAt(at + open.length)
    if (after !== CLOSE && after !== SPACE && after !== SLASH) continue
    const close = xml.indexOf('>', at)
    return close === -1 ? -1 : close + 1
  }
  return -1
}

/** Where the inside of an element ends that begins there; -1 where it does not. */
function endOf(xml: string, { close }: Marks, begin: number): number {
  if (begin === -1) return -1
  return xml.charCodeAt(begin - 2) === SLASH ? begin : xml.indexOf(close, begin)
}

const named: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" }

function unescapeXml(text: string): string {
  if (!text.includes('&')) return text
  // Each etag of a list has two quotes and nothing else: no regular expression for them.
  const unquoted = text.replaceAll('&#34;', '"').replaceAll('&quot;', '"')
  if (!unquoted.includes('&')) return unquoted
  return unquoted.replaceAll(/&(?:#x([0-9a-f]+)|#(\d+)|(\w+));/gi, (whole, hex?: string, decimal?: string, name?: string) => {
    if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex, 16))
    if (decimal !== undefined) return String.fromCodePoint(Number(decimal))
    return named[name ?? ''] ?? whole
  })
}
