import type { Migration } from '../migrate.ts'
import { quoteLiteral } from '../names.ts'

// What an outbox needs in the long run: how long things are kept, and who looked after that last.

export const operationsMigration: Migration = {
  version: 2,
  name: 'operations',
  sql: ({ schema: s }) => `
CREATE TABLE ${s}.policy (
  one              boolean PRIMARY KEY DEFAULT true CHECK (one),
  archive          boolean NOT NULL DEFAULT false,
  archive_days     int NOT NULL DEFAULT 7 CHECK (archive_days BETWEEN 1 AND 3650),
  dead_letter_days int CHECK (dead_letter_days BETWEEN 1 AND 3650),
  tended_at        timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0);
INSERT INTO ${s}.policy DEFAULT VALUES;
COMMENT ON TABLE ${s}.policy IS 'One row: what is kept for how long';
COMMENT ON COLUMN ${s}.policy.archive IS 'Done events go to archive; else they are deleted';
COMMENT ON COLUMN ${s}.policy.dead_letter_days IS 'NULL: dead letters are kept';
COMMENT ON COLUMN ${s}.policy.tended_at IS 'Who moves it tends the outbox for this round';

CREATE TABLE ${s}.archive (
  id         bigint NOT NULL,
  created_at timestamptz NOT NULL,
  done_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  attempts   smallint NOT NULL,
  priority   smallint NOT NULL,
  type       text NOT NULL,
  key        text,
  payload    json NOT NULL,
  headers    json,
  PRIMARY KEY (id, done_at)
) PARTITION BY RANGE (done_at);
CREATE TABLE ${s}.archive_default PARTITION OF ${s}.archive DEFAULT;
COMMENT ON TABLE ${s}.archive IS 'Done events, where the policy keeps them; a partition a day (UTC)';
COMMENT ON TABLE ${s}.archive_default IS 'Events of a day that nobody made a partition for in time; they move when it is made';

CREATE INDEX dead_letter_died ON ${s}.dead_letter (died_at);

-- tend_archive: partitions for today and the two days after it, none for days that are over. Gives what it made and
-- dropped. With its owner's rights: whoever works needs none to make tables.
CREATE FUNCTION ${s}.tend_archive() RETURNS text[] LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '2s' AS $f$
DECLARE
  v_archive regclass := ${quoteLiteral(`${s}.archive`)};
  v_schema name := (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = v_archive);
  v_policy ${s}.policy;
  v_told text[] := '{}';
  v_day date;
  v_name text;
BEGIN
  SELECT * INTO v_policy FROM ${s}.policy;
  FOR v_name IN
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
      WHERE i.inhparent = v_archive AND c.relname ~ '^archive_[0-9]{8}$'
        AND to_date(right(c.relname, 8), 'YYYYMMDD') < current_date - v_policy.archive_days
      ORDER BY 1
  LOOP
    EXECUTE format('DROP TABLE %I.%I', v_schema, v_name);
    v_told := v_told || ('dropped ' || v_name);
  END LOOP;
  DELETE FROM ${s}.archive_default WHERE done_at < current_date - v_policy.archive_days;
  IF NOT v_policy.archive THEN RETURN v_told; END IF;
  FOR v_day IN SELECT current_date + n FROM generate_series(0, 2) n LOOP
    v_name := 'archive_' || to_char(v_day, 'YYYYMMDD');
    CONTINUE WHEN to_regclass(format('%I.%I', v_schema, v_name)) IS NOT NULL;
    LOCK TABLE ${s}.archive_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('CREATE TABLE %I.%I (LIKE %s INCLUDING ALL)', v_schema, v_name, v_archive);
    EXECUTE format('WITH moved AS (DELETE FROM %I.archive_default WHERE done_at >= %L AND done_at < %L RETURNING *)
      INSERT INTO %I.%I SELECT * FROM moved', v_schema, v_day, v_day + 1, v_schema, v_name);
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %I.%I FOR VALUES FROM (%L) TO (%L)',
      v_archive, v_schema, v_name, v_day::timestamptz, (v_day + 1)::timestamptz);
    v_told := v_told || ('made ' || v_name);
  END LOOP;
  RETURN v_told;
END $f$;
`,
}
