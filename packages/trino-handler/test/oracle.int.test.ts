import { inspect } from 'node:util'
import { describeWith, runWithTrinoPython } from '@common-handlers/testkit'
import { afterAll, describe, expect, it } from 'vitest'
import { TrinoHandler, type TrinoValue } from '../src/index.ts'
import { nested, vectors } from './vectors.ts'

/** Reads expressions with Trino's own Python client, values as text, and says what each is. */
const program = `
import json, os, decimal, datetime, uuid, math
import trino
def plain(v):
    if v is None: return ['null']
    if isinstance(v, bool): return ['boolean', v]
    if isinstance(v, int): return ['integer', str(v)]
    if isinstance(v, float): return ['double', 'NaN' if math.isnan(v) else v.hex()]
    if isinstance(v, decimal.Decimal): return ['decimal', format(v, 'f')]
    if isinstance(v, (bytes, bytearray)): return ['bytes', bytes(v).hex()]
    if isinstance(v, tuple): return ['list', [plain(x) for x in v]]
    if isinstance(v, list): return ['list', [plain(x) for x in v]]
    if isinstance(v, dict): return ['map', [[plain(k), plain(x)] for k, x in v.items()]]
    return ['text', str(v)]
connection = trino.dbapi.connect(host=os.environ['HOST'], port=int(os.environ['PORT']), user=os.environ['TRINO_USER'],
    timezone='UTC', legacy_primitive_types=True)
cursor = connection.cursor()
out = []
for expression in json.loads(os.environ['EXPRESSIONS']):
    cursor.execute('SELECT ' + expression)
    rows = cursor.fetchall()
    out.append([cursor.description[0][1], plain(rows[0][0])])
print(json.dumps(out))
`

type Plain = readonly [kind: string, value?: unknown]

const doubleHex = (bits: string): number => {
  const [, sign, whole, fraction = '', exponent] = /^(-?)0x([01])\.?([0-9a-f]*)p([+-]\d+)$/.exec(bits) ?? []
  if (whole === undefined) return Number(bits.replace('inf', 'Infinity'))
  const digits = BigInt(`0x${whole}${fraction.padEnd(13, '0')}`)
  // In two steps: the smallest doubles have exponents that no power of two alone can take.
  const scaled = Number(digits) * 2 ** -52
  const power = Number(exponent)
  const value = power < -1000 ? scaled * 2 ** (power + 100) * 2 ** -100 : scaled * 2 ** power
  return sign === '-' ? -value : value
}

/** A value of ours and what the other client read are the same. With its legacy types it leaves most values the text they came as. */
function expectSame(ours: TrinoValue, other: Plain): void {
  const [kind, value] = other
  switch (kind) {
    case 'null':
      return expect(ours).toBeNull()
    case 'integer':
      return expect(textOf(ours)).toBe(value)
    case 'double':
      return expect(ours).toBe(value === 'NaN' ? Number.NaN : doubleHex(value as string))
    case 'bytes':
      return expect(Buffer.isBuffer(ours) ? ours.toString('hex') : ours).toBe(value)
    case 'list': {
      const items = Array.isArray(ours) ? (ours as readonly TrinoValue[]) : Object.values(ours as object)
      expect(items).toHaveLength((value as Plain[]).length)
      for (const [index, item] of (value as Plain[]).entries()) expectSame(items[index] ?? null, item)
      return
    }
    case 'map': {
      const entries = [...(ours as ReadonlyMap<TrinoValue, TrinoValue>).entries()]
      const others = value as [Plain, Plain][]
      expect(entries.map(([key]) => textOf(key)).toSorted()).toEqual(others.map(([key]) => keyText(key)).toSorted())
      for (const [key, item] of others) {
        const found = entries.find(([name]) => textOf(name) === keyText(key))
        expectSame(found?.[1] ?? null, item)
      }
      return
    }
    case 'text':
      // It leaves bytes in Base64, and what has no number in JSON as a word.
      return expect(textOf(ours)).toBe(value)
    default:
      return expect(ours).toBe(value)
  }
}

const textOf = (value: TrinoValue): string =>
  Buffer.isBuffer(value) ? value.toString('base64') : typeof value === 'object' ? inspect(value) : String(value)
const keyText = ([, value]: Plain): string => String(value)

describeWith(['trino'], "against Trino's Python client", ({ trino: { url, user } }) => {
  const { hostname, port } = new URL(url)
  const handlers = [
    ['direct', new TrinoHandler({ url, user, spooling: { encodings: [] } })],
    ['spooled', new TrinoHandler({ url, user })],
    ['spooled, not packed', new TrinoHandler({ url, user, spooling: { encodings: ['json'] } })],
    ['prepared', new TrinoHandler({ url, user, parameters: 'prepared' })],
  ] as const
  const expressions = [...vectors, ...nested].map(([expression]) => expression)
  const oracle = runWithTrinoPython(program, {
    HOST: hostname,
    PORT: port,
    TRINO_USER: user,
    EXPRESSIONS: JSON.stringify(expressions),
  }).then((printed) => JSON.parse(printed) as [string, Plain][])
  oracle.catch(() => undefined)
  afterAll(() => Promise.all(handlers.map(([, trino]) => trino.close())))

  describe.each(handlers)('%s', (way, trino) => {
    it('reads each value as it does', { timeout: 120_000 }, async () => {
      const others = await oracle
      expect(others).toHaveLength(expressions.length)
      for (const [index, expression] of expressions.entries()) {
        const [, other] = others[index] ?? ['', ['missing'] as const]
        const text = way === 'prepared' ? `SELECT ${expression} AS x, ? AS y` : `SELECT ${expression} AS x`
        const { rows } = await trino.query(text, way === 'prepared' ? [1] : [], { rowMode: 'arrays' })
        try {
          expectSame(rows[0]?.[0] ?? null, other)
        } catch (cause) {
          throw new Error(`${expression}: ${inspect(rows[0]?.[0])} here, ${JSON.stringify(other)} there`, { cause })
        }
      }
    })
  })
})
