import type { PostgresHandler } from '../src/index.ts'

export const table = 'bench_audit_log'

/** A table such as an audit log has, of about 345 bytes a row in CSV. It is made anew when it has another number of rows. */
export async function makeAuditLog(pg: PostgresHandler, rows: number): Promise<void> {
  const [existing] = await pg.getRows('SELECT to_regclass($1)::text', [table])
  if (existing?.[0] !== null && (await pg.getRows(`SELECT count(*)::int FROM ${table}`))[0]?.[0] === rows) return
  await pg.executeScript(`
    DROP TABLE IF EXISTS ${table};
    CREATE UNLOGGED TABLE ${table} AS SELECT i::bigint AS id, timestamptz '2026-01-01' + i * interval '1.000123 s' AS occurred_at,
      'user-' || i % 997 AS actor, (ARRAY['insert','update','delete'])[i % 3 + 1] AS action, 'orders' AS entity,
      md5(i::text)::uuid AS entity_id, ('10.0.' || i % 256 || '.' || i % 199)::inet AS ip,
      jsonb_build_object('before', md5((i + 1)::text), 'after', repeat(md5((i + 2)::text), 4), 'path', 'C:\\\\x', 'n', i) AS payload
      FROM generate_series(1, ${rows}) AS i;
    ALTER TABLE ${table} ADD PRIMARY KEY (id);
    ANALYZE ${table}`)
}
