import { describeWith } from '@common-handlers/testkit'
import { beforeAll, expect, it } from 'vitest'
import { quoteLiteral } from '../src/index.ts'
import { failure, ownDatabase, readAll } from './own-database.ts'

describeWith(['postgres'], 'the catalog', ({ postgres }) => {
  const db = ownDatabase(postgres)

  beforeAll(async () => {
    await db.pg.executeScript(`
      CREATE SCHEMA "My App";
      CREATE TYPE mood AS ENUM ('sad', 'happy');
      CREATE TYPE pair AS (a int, b text);
      CREATE DOMAIN money_amount AS numeric(12,4);
      CREATE DOMAIN price AS money_amount NOT NULL CHECK (VALUE >= 0);
      CREATE DOMAIN tags AS text[];
      CREATE TABLE "My App"."All Types" (
        dropped int, id bigint, part int, flag boolean NOT NULL, n numeric, p numeric(10,2), big numeric(5,-2), tiny numeric(3,5),
        v varchar(20), c char(3), at timestamptz(3), j jsonb, m mood, ms mood[], pr pair, cost price, t tags,
        r int4range, mr int4multirange, nn numeric(7,1)[], pt point, PRIMARY KEY (part, id) INCLUDE (flag)
      );
      ALTER TABLE "My App"."All Types" DROP COLUMN dropped;
      CREATE TABLE parted (id int, day date) PARTITION BY RANGE (day);
      CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
      CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
      INSERT INTO parted SELECT i, date '2024-06-01' + i % 400 FROM generate_series(1, 5000) AS i;
      CREATE VIEW seen AS SELECT id, day, id * 2 AS double FROM parted;
      CREATE MATERIALIZED VIEW stored AS SELECT id FROM parted;
      CREATE SEQUENCE counter;
      ANALYZE parted, stored;
    `)
  })

  it('describes every kind of column', async () => {
    const table = await db.pg.describeTable('"My App"."All Types"')
    expect(table).toMatchObject({ name: '"My App"."All Types"', kind: 'table' })
    const brief = table.columns.map(
      ({ name, sourceType, kind, baseTypeName, category, nullable, precision, scale, keyPosition }) =>
        [name, sourceType, kind, baseTypeName, category, nullable, precision, scale, keyPosition]
          .map((fact) => fact ?? '-')
          .join(' '),
    )
    expect(brief).toEqual([
      'id bigint base int8 N false - - 2',
      'part integer base int4 N false - - 1',
      'flag boolean base bool B false - - -',
      'n numeric base numeric N true - - -',
      'p numeric(10,2) base numeric N true 10 2 -',
      'big numeric(5,-2) base numeric N true 5 -2 -',
      'tiny numeric(3,5) base numeric N true 3 5 -',
      'v character varying(20) base varchar S true - - -',
      'c character(3) base bpchar S true - - -',
      'at timestamp(3) with time zone base timestamptz D true - - -',
      'j jsonb base jsonb U true - - -',
      'm mood enum mood E true - - -',
      'ms mood[] array _mood A true - - -',
      'pr pair composite pair C true - - -',
      'cost price domain numeric N false 12 4 -',
      't tags domain _text A true - - -',
      'r int4range range int4range R true - - -',
      'mr int4multirange multirange int4multirange R true - - -',
      'nn numeric(7,1)[] array _numeric A true - - -',
      'pt point base point G true - - -',
    ])
  })

  it('describes a query without running it', async () => {
    await db.pg.execute(`CREATE FUNCTION bomb() RETURNS int LANGUAGE plpgsql VOLATILE AS $$ BEGIN RAISE 'it ran'; END $$`)
    const { columns, estimatedRows } = await db.pg.describeQuery(
      `SELECT a.id, a.cost, a.p, a.p * 2 AS product, bomb() AS b, 'x' AS "a b" FROM "My App"."All Types" a LEFT JOIN parted ON true`,
    )
    expect(columns.map(({ name, sourceType, precision, nullable }) => [name, sourceType, precision, nullable])).toEqual([
      ['id', 'bigint', undefined, true],
      // The server describes what a domain stands on.
      ['cost', 'numeric(12,4)', 12, true],
      ['p', 'numeric(10,2)', 10, true],
      ['product', 'numeric', undefined, true],
      ['b', 'integer', undefined, true],
      ['a b', 'text', undefined, true],
    ])
    expect(estimatedRows).toBeGreaterThan(0)
    expect(await failure(db.pg.describeQuery('CREATE TABLE never (a int)'))).toMatchObject({ code: 'POSTGRES_NO_COLUMNS' })
    expect(await failure(db.pg.describeQuery('SELECT nothing FROM parted'))).toMatchObject({ code: 'POSTGRES_COLUMN_NOT_FOUND' })
    // The connection is in order after both.
    expect(await db.pg.getRecords(`SELECT to_regclass('never') AS t`)).toEqual([{ t: null }])
  })

  it.each([
    ['parted', 'partitioned table', 2],
    ['parted_1', 'table', 2],
    ['seen', 'view', 3],
    ['stored', 'materialized view', 1],
  ] as const)('knows %s, a %s, and how large it is', async (name, kind, columns) => {
    const table = await db.pg.describeTable(name)
    expect(table).toMatchObject({ name: `"public"."${name}"`, kind })
    expect(table.columns).toHaveLength(columns)
    const { rows } = await readAll(db.pg.copyOut(`COPY (SELECT * FROM ${table.name}) TO STDOUT`))
    expect(table.estimatedRows).toBe(rows.length)
    if (kind === 'view') expect(table.bytes).toBe(0)
    else expect(table.bytes).toBeGreaterThan(8_000)
  })

  it('knows a foreign table, and copies it by a query', async () => {
    const { host, port, user, password, database } = db.address
    const text = (value: unknown): string => quoteLiteral(String(value))
    await db.pg.executeScript(`
      CREATE EXTENSION postgres_fdw;
      CREATE SERVER itself FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host ${text(host)}, port ${text(port)}, dbname ${text(database)});
      CREATE USER MAPPING FOR CURRENT_USER SERVER itself OPTIONS (user ${text(user)}, password ${text(password)});
      CREATE FOREIGN TABLE far_away (id int NOT NULL, day date) SERVER itself OPTIONS (table_name 'parted')`)
    const table = await db.pg.describeTable('far_away')
    expect(table).toMatchObject({ name: '"public"."far_away"', kind: 'foreign table', bytes: 0 })
    expect(table.columns.map(({ name, nullable }) => [name, nullable])).toEqual([
      ['id', false],
      ['day', true],
    ])
    const { rows } = await readAll(db.pg.copyOut(`COPY (SELECT * FROM ${table.name}) TO STDOUT`))
    expect(rows).toHaveLength(5000)
  })

  it('estimates a table that was never analyzed, and a condition', async () => {
    await db.pg.executeScript('CREATE TABLE fresh AS SELECT i FROM generate_series(1, 10000) AS i')
    expect((await db.pg.describeTable('fresh')).estimatedRows).toBeGreaterThan(5_000)
    expect(await db.pg.estimateRows(`SELECT * FROM parted WHERE day < '2025-01-01'`)).toBeLessThan(4_000)
  })

  it('says what is missing, and what is no table', async () => {
    const error = await failure(db.pg.describeTable('app.nowhere'))
    expect(error).toMatchObject({ name: 'NotFoundError', code: 'POSTGRES_TABLE_NOT_FOUND', context: { table: 'app.nowhere' } })
    expect(await failure(db.pg.describeTable('counter'))).toMatchObject({ code: 'POSTGRES_NOT_A_TABLE' })
  })
})
