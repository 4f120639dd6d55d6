// S3's answers are flat: a few names, each with text or with one level of names below. No parser is needed to read them.

/** The text of the first element of that name, its entities resolved; undefined where there is none. */
export function textOf(xml: string, name: string): string | undefined {
  const inner = innerOf(xml, name, 0)
  return inner === undefined ? undefined : unescapeXml(xml.slice(inner.begin, inner.end))
}

/** What stands inside each element of that name. */
export function elements(xml: string, name: string): string[] {
  const found: string[] = []
  for (let from = 0; ;) {
    const inner = innerOf(xml, name, from)
    if (inner === undefined) return found
    found.push(xml.slice(inner.begin, inner.end))
    from = inner.end
  }
}

export function escapeXml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')
}

function innerOf(xml: string, name: string, from: number): { readonly begin: number; readonly end: number } | undefined {
  const open = `<${name}`
  for (let at = xml.indexOf(open, from); at !== -1; at = xml.indexOf(open, at + 1)) {
    // The name may go on (`<KeyCount>`), have attributes, or be empty (`<ETag/>`).
    const after = xml.charCodeAt(at + open.length)
    if (after !== 62 && after !== 32 && after !== 47) continue
    const close = after === 62 ? at + open.length : xml.indexOf('>', at)
    if (close === -1) return undefined
    if (xml.charCodeAt(close - 1) === 47) return { begin: close, end: close }
    const end = xml.indexOf(`</${name}>`, close)
    return end === -1 ? undefined : { begin: close + 1, end }
  }
  return undefined
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
