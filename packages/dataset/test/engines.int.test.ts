import { createDatabase, describeWith, runOnPostgres, runOnTrino } from '@common-handlers/testkit'
import { afterAll, beforeAll, expect, it } from 'vitest'
import {
  copySettings,
  encodeField,
  exceptionalPredicate,
  mapColumn,
  type SourceColumn,
  trinoDecode,
} from '@common-handlers/dataset'

const source = (baseTypeName: string, sourceType: string, more: Partial<SourceColumn> = {}): SourceColumn => ({
  name: 'the "value"',
  sourceType,
  baseTypeName,
  category: 'X',
  nullable: true,
  ...more,
})

describeWith(['postgres'], 'predicates on PostgreSQL', ({ postgres }) => {
  let database: Awaited<ReturnType<typeof createDatabase>> | undefined
  beforeAll(async () => {
    database = await createDatabase(postgres, 'dataset')
  })
  afterAll(() => database?.drop())

  const asked: [SourceColumn, exceptional: string[], ordinary: string[], beyondDuckdb?: string[]][] = [
    [source('numeric', 'numeric(10,2)', { precision: 10, scale: 2 }), ['NaN'], ['99999999.99', '-99999999.99', '0'], ['NaN']],
    [source('date', 'date'), ['infinity', '-infinity', '0001-12-31 BC', '10000-01-01'], ['0001-01-01', '9999-12-31'], []],
    [source('time', 'time'), ['24:00:00'], ['23:59:59.999999', '00:00:00'], []],
    [
      source('timestamp', 'timestamp'),
      ['infinity', '-infinity', '0001-12-31 23:59:59.999999 BC', '10000-01-01', '294276-12-31 23:59:59.999999'],
      ['0001-01-01', '9999-12-31 23:59:59.999999'],
      ['294276-12-31 23:59:59.999999', '200000-01-01'],
    ],
    [
      source('timestamptz', 'timestamptz'),
      ['infinity', '-infinity', '0001-12-31 23:59:59.999999+00 BC', '10000-01-01 00:00:00+00'],
      ['0001-01-01 00:00:00+00', '9999-12-31 23:59:59.999999+00'],
      ['200000-01-01 00:00:00+00'],
    ],
  ]
  for (const [column, exceptional, ordinary, beyondDuckdb = []] of asked) {
    it(`say which ${column.sourceType} an engine cannot hold, whatever the time zone of the session`, async () => {
      const lines = (engine: 'iceberg' | 'duckdb', isThat: (value: string) => boolean): string[] =>
        [...new Set([...exceptional, ...ordinary, ...beyondDuckdb])].map((value) => {
          const predicate = exceptionalPredicate(column, engine) ?? 'false'
          return `ASSERT (SELECT ${isThat(value) ? '' : 'NOT '}(${predicate}) FROM (SELECT '${value}'::${column.sourceType} AS "the ""value""") t), '${engine} ${value}';`
        })
      const all = [
        ...lines('iceberg', (value) => !ordinary.includes(value)),
        ...lines('duckdb', (value) => beyondDuckdb.includes(value)),
        `ASSERT (SELECT bool_or(${exceptionalPredicate(column)}) IS NULL FROM (SELECT NULL::${column.sourceType} AS "the ""value""") t);`,
      ]
      if (database === undefined) throw new Error('no database')
      await expect(
        runOnPostgres(database, `SET TIME ZONE 'Asia/Tokyo'; DO $do$ BEGIN ${all.join('\n')} END $do$`),
      ).resolves.toBeUndefined()
    })
  }

  it('has the settings under which COPY writes what the decode expressions read', async () => {
    if (database === undefined) throw new Error('no database')
    const settings = Object.entries(copySettings).map(([name, value]) => `SET LOCAL ${name} = '${value}';`)
    const spelled = {
      "timestamptz '2026-11-21 10:15:30.123457+02'": '2026-11-21 08:15:30.123457+00',
      "timestamp '0044-03-15 10:00:00 BC'": '0044-03-15 10:00:00 BC',
      "bytea '\\x00ff'": '\\x00ff',
      "float8 '0.1' + float8 '0.2'": '0.30000000000000004',
      "interval '1 month -2 days 3 hours'": '1 mon -2 days +03:00:00',
    }
    const asserts = Object.entries(spelled).map(([value, text]) => `ASSERT (${value})::text = '${text}', (${value})::text;`)
    const before =
      "SET TIME ZONE 'Asia/Tokyo'; SET DateStyle = 'German'; SET bytea_output = 'escape'; SET extra_float_digits = 0; SET IntervalStyle = 'sql_standard';"
    await expect(
      runOnPostgres(database, `${before} BEGIN; ${settings.join(' ')} DO $do$ BEGIN ${asserts.join('\n')} END $do$; COMMIT`),
    ).resolves.toBeUndefined()
  })
})

describeWith(['trino'], 'decode expressions on Trino', ({ trino }) => {
  /** A field as Trino's CSV reader gives it: quotes taken off. */
  const raw = (value: string | null): string => {
    const field = encodeField(value)
    return field.startsWith('"') ? field.slice(1, -1).replaceAll('""', '"') : field
  }
  const literal = (text: string): string =>
    `U&'${Array.from(text, (character) => (/[ -&(-[\]-~]/.test(character) ? character : `\\+${(character.codePointAt(0) ?? 0).toString(16).padStart(6, '0')}`)).join('')}'`

  /** Decodes values, and compares each in SQL with what it must be. */
  async function differences(
    column: SourceColumn,
    values: readonly (readonly [written: string | null, expected: string])[],
    exceptional = false,
  ): Promise<unknown[]> {
    const mapped = mapColumn(column, { exceptional })
    const rows = values.map(
      ([written, expected], index) => `(${index}, ${literal(raw(written))}, CAST(${expected} AS ${mapped.targets.iceberg.type}))`,
    )
    const decoded = trinoDecode(mapped)
    const sql = `SELECT n, typeof(${decoded}) FROM (VALUES ${rows.join(', ')}) AS t (n, "the ""value""", expected)
      WHERE ${decoded} IS DISTINCT FROM expected OR typeof(${decoded}) <> '${mapped.targets.iceberg.type}'`
    // An unbounded varchar is what a table's column is, and what VALUES only makes with a cast.
    const { rows: different } = await runOnTrino(
      trino,
      sql
        .replaceAll('FROM (VALUES', 'FROM (SELECT n, CAST(raw AS varchar), expected FROM (VALUES')
        .replace(`AS t (n,`, `AS v (n, raw, expected)) AS t (n,`),
    )
    return different.map(([index, type]) => [values[Number(index)]?.[0], type])
  }

  const cases: [SourceColumn, (readonly [string | null, string])[], boolean?][] = [
    [
      source('int2', 'smallint'),
      [
        [null, 'NULL'],
        ['-32768', '-32768'],
      ],
    ],
    [
      source('int4', 'integer'),
      [
        [null, 'NULL'],
        ['-2147483648', '-2147483648'],
      ],
    ],
    [
      source('int8', 'bigint'),
      [
        [null, 'NULL'],
        ['-9223372036854775808', "'-9223372036854775808'"],
        ['9007199254740993', '9007199254740993'],
      ],
    ],
    [
      source('numeric', 'numeric(38,10)', { precision: 38, scale: 10 }),
      [
        [null, 'NULL'],
        ['9999999999999999999999999999.9999999999', "DECIMAL '9999999999999999999999999999.9999999999'"],
      ],
    ],
    [
      source('numeric', 'numeric(10,2)', { precision: 10, scale: 2 }),
      [
        [null, 'NULL'],
        ['NaN', "'NaN'"],
      ],
      true,
    ],
    [
      source('float4', 'real'),
      [
        [null, 'NULL'],
        ['NaN', 'nan()'],
        ['-Infinity', '-infinity()'],
        ['3.4028235e+38', "'3.4028235e38'"],
        ['1e-45', "'1e-45'"],
      ],
    ],
    [
      source('float8', 'double precision'),
      [
        [null, 'NULL'],
        ['NaN', 'nan()'],
        ['Infinity', 'infinity()'],
        ['5e-324', "'5e-324'"],
        ['0.30000000000000004', '3.0000000000000004e-1'],
      ],
    ],
    [
      source('bool', 'boolean'),
      [
        [null, 'NULL'],
        ['t', 'true'],
        ['f', 'false'],
      ],
    ],
    [
      source('bytea', 'bytea'),
      [
        [null, 'NULL'],
        ['\\x', "X''"],
        ['\\x00ff5c4e', "X'00ff5c4e'"],
      ],
    ],
    [
      source('uuid', 'uuid'),
      [
        [null, 'NULL'],
        ['123e4567-e89b-12d3-a456-426614174000', "UUID '123e4567-e89b-12d3-a456-426614174000'"],
      ],
    ],
    [
      source('date', 'date'),
      [
        [null, 'NULL'],
        ['0001-01-01', "DATE '0001-01-01'"],
        ['9999-12-31', "DATE '9999-12-31'"],
      ],
    ],
    [
      source('date', 'date'),
      [
        [null, 'NULL'],
        ['-infinity', "'-infinity'"],
        ['0044-03-15 BC', "'0044-03-15 BC'"],
      ],
      true,
    ],
    [
      source('time', 'time'),
      [
        [null, 'NULL'],
        ['23:59:59.999999', "TIME '23:59:59.999999'"],
        ['00:00:00', "TIME '00:00:00'"],
      ],
    ],
    [
      source('timestamp', 'timestamp'),
      [
        [null, 'NULL'],
        ['0001-01-01 00:00:00', "TIMESTAMP '0001-01-01 00:00:00'"],
        ['9999-12-31 23:59:59.999999', "TIMESTAMP '9999-12-31 23:59:59.999999'"],
      ],
    ],
    [
      source('timestamptz', 'timestamptz'),
      [
        [null, 'NULL'],
        ['2026-11-21 10:15:30.123457+00', "TIMESTAMP '2026-11-21 10:15:30.123457 UTC'"],
        ['0001-01-01 00:00:00+00', "TIMESTAMP '0001-01-01 00:00:00 UTC'"],
        ['9999-12-31 23:59:59.999999+00', "TIMESTAMP '9999-12-31 23:59:59.999999 UTC'"],
      ],
    ],
    [
      source('text', 'text'),
      [
        '',
        ' ',
        '\\N',
        '"\\N"',
        '\\',
        'a,b',
        '"',
        "'",
        'a\nb',
        '\r\n',
        '\u0001',
        '\u0002',
        '\u00022',
        '\u0002N',
        '\u0002n\n',
        '\u0003\u007f',
        'é\u{1F5C3}',
        'NULL',
      ].map((value): readonly [string, string] => [value, literal(value)]),
    ],
    [source('text', 'text'), [[null, 'NULL']]],
    [source('_text', 'text[]', { category: 'A' }), [['{"a\nb","\\\\N",NULL}', literal('{"a\nb","\\\\N",NULL}')]]],
  ]
  for (const [column, values, exceptional] of cases) {
    it(`give every ${column.sourceType}${exceptional === true ? ' that the type cannot hold' : ''} as it was`, async () => {
      expect(await differences(column, values, exceptional)).toEqual([])
    })
  }

  it('fail on what is no value of the type, instead of making one up', async () => {
    const broken: [SourceColumn, string][] = [
      [source('int4', 'integer'), '1x'],
      [source('bytea', 'bytea'), '00ff'],
      [source('timestamptz', 'timestamptz'), '2026-11-21 10:15:30'],
      [source('timestamptz', 'timestamptz'), '2026-11-21 10:15:30+02'],
      [source('bool', 'boolean'), 'maybe'],
    ]
    for (const [column, value] of broken) {
      const decoded = trinoDecode(mapColumn(column))
      const run = runOnTrino(
        trino,
        `SELECT ${decoded} FROM (SELECT CAST(raw AS varchar) FROM (VALUES '${value}') AS v (raw)) AS t ("the ""value""")`,
      )
      await expect(run, `${column.sourceType} ${value}`).rejects.toThrow(/INVALID|failed|Cannot|cast/i)
    }
  })
})
