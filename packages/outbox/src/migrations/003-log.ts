import type { Migration } from '../migrate.ts'
import { quoteLiteral } from '../names.ts'

/** The log is a ring of so many tables: one is written, the others are kept or empty. */
const SLOTS = 4

/** Of a row of the log: it was not committed yet when the consumer `c` began at the end. */
const isNew = (row: string): string => `pg_visible_in_snapshot(${row}.xid, c.after) IS NOT TRUE`

const slots = Array.from({ length: SLOTS }, (_, slot) => slot)

export const logMigration: Migration = {
  version: 3,
  name: 'log, inbox, schedules',
  sql: ({ schema: s, lockClass }) => `
CREATE TABLE ${s}.log (
  xid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
  id         bigint GENERATED ALWAYS AS IDENTITY,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  slot       smallint NOT NULL,
  type       text NOT NULL CHECK (type <> ''),
  key        text,
  payload    json NOT NULL,
  headers    json,
  PRIMARY KEY (id, slot)
) PARTITION BY LIST (slot);
${slots.map((slot) => `CREATE TABLE ${s}.log_${slot} PARTITION OF ${s}.log FOR VALUES IN (${slot});`).join('\n')}
CREATE INDEX log_xid ON ${s}.log (xid, id);
COMMENT ON TABLE ${s}.log IS 'Events that each consumer reads for itself. Rows are never updated or deleted: tables of the ring are emptied';

CREATE TABLE ${s}.log_slot (
  slot      smallint PRIMARY KEY,
  current   boolean NOT NULL,
  opened_at timestamptz,
  closed_at timestamptz
);
INSERT INTO ${s}.log_slot SELECT n, n = 0, CASE WHEN n = 0 THEN clock_timestamp() END FROM generate_series(0, ${SLOTS - 1}) n;

CREATE TABLE ${s}.consumer (
  id           int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name         text NOT NULL UNIQUE CHECK (name <> ''),
  types        text[] NOT NULL,
  after        pg_snapshot,
  since        xid8 NOT NULL,
  until        xid8 NOT NULL,
  position     bigint NOT NULL DEFAULT 0,
  last         bigint NOT NULL DEFAULT 0,
  attempts     smallint NOT NULL DEFAULT 0,
  crashes      smallint NOT NULL DEFAULT 0,
  retry_at     timestamptz,
  last_error   text,
  begun_by     bigint,
  begun_events int,
  suspects     int NOT NULL DEFAULT 0,
  created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  moved_at     timestamptz
) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);
COMMENT ON COLUMN ${s}.consumer.after IS 'It reads nothing that was committed before this: where it began at the end';
COMMENT ON COLUMN ${s}.consumer.since IS 'It reads the events of the transactions from this one on, in the order of their ids';
COMMENT ON COLUMN ${s}.consumer.until IS 'Before this one: all of them were over when it was drawn';
COMMENT ON COLUMN ${s}.consumer.position IS 'Of these events, the last one that is over';
COMMENT ON COLUMN ${s}.consumer.last IS 'Of these events, the last one';
COMMENT ON COLUMN ${s}.consumer.attempts IS 'Failed attempts of the event after the position, which holds the others up';
COMMENT ON COLUMN ${s}.consumer.begun_by IS 'The worker that has begun a batch: still there when another one comes, it died or lost its connection';
COMMENT ON COLUMN ${s}.consumer.suspects IS 'So many events run alone: one of them may have killed a worker';

-- append: one event for every consumer, in the transaction of the caller. append_many: many, in their order.
CREATE FUNCTION ${s}.append(type text, payload json, headers json DEFAULT NULL, key text DEFAULT NULL)
RETURNS bigint LANGUAGE plpgsql AS $f$
DECLARE v_id bigint;
BEGIN
  INSERT INTO ${s}.log (type, payload, headers, key, slot)
    SELECT $1, $2, $3, $4, l.slot FROM ${s}.log_slot l WHERE l.current RETURNING log.id INTO v_id;
  PERFORM ${s}.wake();
  RETURN v_id;
END $f$;

CREATE FUNCTION ${s}.append_many(types text[], payloads json[], headers json[], keys text[])
RETURNS SETOF bigint LANGUAGE plpgsql AS $f$
BEGIN
  RETURN QUERY INSERT INTO ${s}.log (type, payload, headers, key, slot)
    SELECT e.t, e.p, e.h, e.k, (SELECT l.slot FROM ${s}.log_slot l WHERE l.current)
      FROM unnest($1, $2, $3, $4) WITH ORDINALITY e (t, p, h, k, place) ORDER BY e.place RETURNING log.id;
  PERFORM ${s}.wake();
END $f$;

-- add_consumer: makes it where it is not there yet, before the first event that is kept or behind the last that is committed.
-- The types of one that is there are added to.
CREATE FUNCTION ${s}.add_consumer(p_name text, p_types text[], p_start text) RETURNS void LANGUAGE plpgsql AS $f$
BEGIN
  INSERT INTO ${s}.consumer AS c (name, types, after, since, until)
    SELECT p_name, p_types, v.now, coalesce(pg_snapshot_xmin(v.now), '0'), coalesce(pg_snapshot_xmin(v.now), '0')
      FROM (SELECT CASE WHEN p_start = 'end' THEN pg_current_snapshot() END) v (now)
    ON CONFLICT (name) DO UPDATE SET types = c.types || array(SELECT unnest(p_types) EXCEPT SELECT unnest(c.types))
      WHERE NOT p_types <@ c.types;
END $f$;

-- The row of a consumer changes with each batch, and its old versions stay while anybody holds a snapshot: whoever knows
-- where the newest one is (tid) need not walk through them.

-- read_log: locks the consumer until the caller's transaction ends, and gives the events after its position. Each
-- statement has a snapshot of its own: the position is read behind the lock. Events of other types come without payload.
-- No row is locked, so that a batch which writes nothing holds up no other consumer.
-- A generation is what the transactions wrote that came to their end while the one before was read: those between two fences,
-- each the oldest transaction that ran at its time. Within it events go by their ids. An event that was appended after
-- another one had been committed comes after it: in a later generation, or with a greater id.
-- The statements that follow in the transaction have p_timeout ms each; this one may take longer, for a large generation.
-- The last row has no id: its column meta is JSON, with the position, the attempts and crashes of the first event, and
-- why there is nothing else:
--   locked, gone, types (the consumer takes types that this worker does not know), waiting (for the next attempt),
--   noted (the worker before died: commit this and read again), alone (call again with p_alone), paused, fenced (what there
--   is has older transactions beside it), end; or events
CREATE FUNCTION ${s}.read_log(p_name text, p_worker bigint, p_types text[], p_limit int, p_alone boolean, p_timeout int, p_tid tid)
RETURNS TABLE (
  id bigint, type text, payload text, headers text, key text, attempts int, crashes int, created_at double precision,
  expired boolean, meta text
) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off SET plan_cache_mode = force_generic_plan AS $f$
#variable_conflict use_column
DECLARE
  c record;
  v_id int;
  v_since xid8;
  v_until xid8;
  v_position bigint;
  v_last bigint;
  v_limit int;
  v_before int;
  v_paused text[];
  v_state text;
BEGIN
  SELECT k.id INTO v_id FROM ${s}.consumer k WHERE k.ctid = p_tid AND k.name = p_name;
  IF NOT FOUND THEN SELECT k.id INTO v_id FROM ${s}.consumer k WHERE k.name = p_name; END IF;
  IF v_id IS NULL THEN
    v_state := 'gone';
  ELSIF NOT pg_try_advisory_xact_lock(${lockClass}, -1000 - v_id) THEN
    v_state := 'locked';
  END IF;
  IF v_state IS NOT NULL THEN
    RETURN QUERY SELECT NULL::bigint, NULL, NULL, NULL, NULL, NULL::int, NULL::int, NULL::float8, NULL::boolean,
      json_build_object('state', v_state, 'types', array[]::text[])::text;
    RETURN;
  ELSE
    SELECT k.*, k.ctid AS tid INTO c FROM ${s}.consumer k WHERE k.ctid = p_tid AND k.name = p_name;
    IF NOT FOUND THEN SELECT k.*, k.ctid AS tid INTO c FROM ${s}.consumer k WHERE k.name = p_name; END IF;
    IF c.until > pg_snapshot_xmax(pg_current_snapshot()) THEN
      RAISE EXCEPTION 'the position of the consumer % is of another server: transaction % is yet to come here', p_name, c.until;
    END IF;
    IF NOT c.types <@ p_types THEN
      v_state := 'types';
    ELSIF c.retry_at > clock_timestamp() THEN
      v_state := 'waiting';
    ELSIF c.begun_by <> p_worker THEN
      UPDATE ${s}.consumer SET begun_by = NULL, crashes = c.crashes + (c.suspects > 0)::int,
          suspects = greatest(c.suspects, c.begun_events) WHERE id = c.id;
      v_state := 'noted';
    ELSIF c.suspects > 0 AND NOT p_alone THEN
      v_state := 'alone';
    END IF;
  END IF;
  IF v_state IS NULL THEN
    v_since := c.since;
    v_until := c.until;
    v_position := c.position;
    v_last := c.last;
    IF v_position >= v_last THEN
      -- Later statements see no less than this one: all is told of the transactions before the fence.
      v_since := c.until;
      v_until := pg_snapshot_xmin(pg_current_snapshot());
      -- By the index of xid: the planner must not look for them by their ids.
      SELECT min(l.id + 0) - 1, max(l.id + 0) INTO v_position, v_last FROM ${s}.log l
        WHERE l.xid >= v_since AND l.xid < v_until AND ${isNew('l')};
    END IF;
    IF v_last IS NULL THEN
      v_state := CASE WHEN EXISTS (SELECT FROM ${s}.log l
        WHERE l.xid >= v_until AND ${isNew('l')}) THEN 'fenced' ELSE 'end' END;
    END IF;
  END IF;
  IF v_state IS NULL THEN
    v_limit := CASE WHEN c.suspects > 0 THEN 1 ELSE p_limit END;
    v_paused := array(SELECT p.type FROM ${s}.paused p WHERE p.type = ANY (c.types));
    IF cardinality(v_paused) > 0 THEN
      SELECT l.place - 1 INTO v_before FROM (
        SELECT g.type, row_number() OVER (ORDER BY g.id) AS place FROM ${s}.log g
          WHERE g.id > v_position AND g.id <= v_last AND g.xid >= v_since AND g.xid < v_until
            AND ${isNew('g')} ORDER BY g.id LIMIT v_limit
      ) l WHERE l.type = ANY (v_paused) ORDER BY l.place LIMIT 1;
    END IF;
    RETURN QUERY
      SELECT l.id, l.type, CASE WHEN l.type = ANY (p_types) THEN l.payload::text END, l.headers::text, l.key, 0, 0,
          date_part('epoch', l.created_at) * 1000, false, NULL
        FROM ${s}.log l WHERE l.id > v_position AND l.id <= v_last AND l.xid >= v_since AND l.xid < v_until
          AND ${isNew('l')}
        ORDER BY l.id LIMIT least(v_limit, v_before);
    v_state := CASE WHEN FOUND THEN 'events' ELSE 'paused' END;
  END IF;
  PERFORM set_config('statement_timeout', p_timeout::text, true);
  RETURN QUERY SELECT NULL::bigint, NULL, NULL, NULL, NULL, NULL::int, NULL::int, NULL::float8, NULL::boolean,
    json_build_object('state', v_state, 'waitMs', greatest(1, ceil(extract(epoch FROM c.retry_at - clock_timestamp()) * 1000)),
      'types', array(SELECT unnest(c.types) EXCEPT SELECT unnest(p_types)),
      'tid', c.tid::text, 'read', json_build_object('until', c.until::text, 'position', c.position::text),
      'generation', json_build_object('since', v_since::text, 'until', v_until::text, 'position', v_position::text, 'last', v_last::text),
      'attempts', c.attempts, 'crashes', c.crashes)::text;
END $f$;

-- begin_log: notes that a worker is about to run events, outside of the transaction in which it does.
CREATE FUNCTION ${s}.begin_log(p_name text, p_tid tid, p_worker bigint, p_events int) RETURNS tid LANGUAGE plpgsql AS $f$
DECLARE v_tid tid;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  UPDATE ${s}.consumer SET begun_by = p_worker, begun_events = p_events WHERE ctid = p_tid AND name = p_name RETURNING ctid INTO v_tid;
  IF NOT FOUND THEN
    UPDATE ${s}.consumer SET begun_by = p_worker, begun_events = p_events WHERE name = p_name RETURNING ctid INTO v_tid;
  END IF;
  RETURN v_tid;
END $f$;

-- end_log: moves a consumer on by p_events, or notes that the event after its position failed (p_delay). NULL: it is not
-- where p_read says, and nothing was done.
--   p_read: { until, position }; p_now: { since, until, position, last }; p_dead: [{ id, attempts, reason, error }]
CREATE FUNCTION ${s}.end_log(p_name text, p_tid tid, p_read json, p_now json, p_events int, p_dead json, p_delay float8, p_error text)
RETURNS tid LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $f$
DECLARE v_tid tid;
BEGIN
  SELECT c.ctid INTO v_tid FROM ${s}.consumer c WHERE c.ctid = p_tid AND c.name = p_name;
  IF NOT FOUND THEN SELECT c.ctid INTO v_tid FROM ${s}.consumer c WHERE c.name = p_name; END IF;
  UPDATE ${s}.consumer c SET
      since = (p_now ->> 'since')::xid8, until = (p_now ->> 'until')::xid8,
      position = (p_now ->> 'position')::bigint, last = (p_now ->> 'last')::bigint,
      begun_by = NULL,
      moved_at = CASE WHEN p_events > 0 THEN clock_timestamp() ELSE moved_at END,
      attempts = least(CASE WHEN p_events > 0 THEN 0 ELSE attempts END + (p_delay IS NOT NULL)::int, 32767),
      crashes = CASE WHEN p_events > 0 THEN 0 ELSE crashes END,
      suspects = greatest(suspects - p_events, 0),
      retry_at = clock_timestamp() + p_delay * interval '1 ms',
      last_error = p_error
    WHERE c.ctid = v_tid AND c.until = (p_read ->> 'until')::xid8 AND c.position = (p_read ->> 'position')::bigint
    RETURNING c.ctid INTO v_tid;
  IF NOT FOUND THEN RETURN NULL; END IF;
  IF p_dead IS NOT NULL THEN
    INSERT INTO ${s}.dead_letter (id, created_at, attempts, crashes, priority, reason, type, key, payload, headers, error)
      SELECT nextval(pg_get_serial_sequence(${quoteLiteral(`${s}.event`)}, 'id')), l.created_at, d.attempts, d.crashes, 0, d.reason,
          l.type || '@' || p_name, l.key, l.payload, l.headers, d.error
        FROM json_to_recordset(p_dead) AS d (id bigint, attempts smallint, crashes smallint, reason text, error text)
          JOIN ${s}.log l ON l.id = d.id;
  END IF;
  RETURN v_tid;
END $f$;

-- turn_log: turns the ring on when half of p_keep has passed, and empties tables that were closed before p_keep and that
-- every consumer is past. What is in use is left for the next time. Returns how many tables were emptied.
-- With its owner's rights: whoever works needs none to empty tables.
CREATE FUNCTION ${s}.turn_log(p_keep interval) RETURNS int LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET lock_timeout = '100ms' AS $f$
DECLARE
  v_now timestamptz := clock_timestamp();
  v_slot record;
  v_consumer record;
  v_table text;
  v_next smallint;
  v_unread boolean;
  v_count int := 0;
BEGIN
  IF NOT pg_try_advisory_xact_lock(${lockClass}, -1000) OR NOT EXISTS (SELECT FROM ${s}.consumer) THEN RETURN 0; END IF;
  FOR v_slot IN SELECT slot FROM ${s}.log_slot WHERE closed_at <= v_now - p_keep ORDER BY closed_at LOOP
    BEGIN
      -- Behind this lock nobody writes here any more, and what was written is committed.
      v_table := ${quoteLiteral(`${s}.log_`)} || v_slot.slot;
      EXECUTE 'LOCK TABLE ' || v_table || ' IN ACCESS EXCLUSIVE MODE';
      FOR v_consumer IN SELECT * FROM ${s}.consumer LOOP
        EXECUTE 'SELECT EXISTS (SELECT FROM ' || v_table || ' WHERE xid >= $2)
            OR EXISTS (SELECT FROM ' || v_table || ' WHERE id > $3 AND id <= $4 AND xid >= $1 AND xid < $2)'
          INTO v_unread USING v_consumer.since, v_consumer.until, v_consumer.position, v_consumer.last;
        EXIT WHEN v_unread;
      END LOOP;
      CONTINUE WHEN v_unread;
      EXECUTE 'TRUNCATE ' || v_table;
      UPDATE ${s}.log_slot SET opened_at = NULL, closed_at = NULL WHERE slot = v_slot.slot;
      v_count := v_count + 1;
    EXCEPTION WHEN lock_not_available THEN NULL;
    END;
  END LOOP;
  SELECT * INTO v_slot FROM ${s}.log_slot WHERE current;
  v_next := (v_slot.slot + 1) % ${SLOTS};
  IF v_slot.opened_at <= v_now - p_keep / 2 AND EXISTS (SELECT FROM ${s}.log_slot WHERE slot = v_next AND opened_at IS NULL)
  THEN
    UPDATE ${s}.log_slot SET current = slot = v_next, opened_at = CASE WHEN slot = v_next THEN v_now ELSE opened_at END,
      closed_at = CASE WHEN slot = v_slot.slot THEN v_now END WHERE slot IN (v_slot.slot, v_next);
  END IF;
  RETURN v_count;
END $f$;

-- log_progress: how far each consumer is, and which process has the oldest transaction where that holds events back.
CREATE FUNCTION ${s}.log_progress() RETURNS TABLE (
  name text, types json, lag int, lag_seconds float8, fenced int, held_back_by text, attempts int, retry_at float8, last_error text,
  moved_at float8
) LANGUAGE sql STABLE SET enable_seqscan = off SET jit = off AS $f$
  SELECT c.name, to_json(c.types), b.lag, coalesce(extract(epoch FROM clock_timestamp() - b.oldest), 0)::float8, b.fenced,
      CASE WHEN b.fenced > 0 THEN h.holder END, c.attempts::int, extract(epoch FROM c.retry_at)::float8 * 1000, c.last_error,
      extract(epoch FROM c.moved_at)::float8 * 1000
    FROM ${s}.consumer c
      CROSS JOIN LATERAL (
        SELECT least(count(*), 100000)::int AS lag, (count(*) FILTER (WHERE u.xid >= pg_snapshot_xmin(pg_current_snapshot())))::int AS fenced,
            min(u.created_at) AS oldest
          FROM (
            (SELECT l.xid, l.created_at FROM ${s}.log l
              WHERE l.id > c.position AND l.id <= c.last AND l.xid >= c.since AND l.xid < c.until
                AND ${isNew('l')} ORDER BY l.id LIMIT 100000)
            UNION ALL
            (SELECT l.xid, l.created_at FROM ${s}.log l
              WHERE l.xid >= c.until AND ${isNew('l')} ORDER BY l.xid LIMIT 100000)
          ) u
      ) b
      LEFT JOIN LATERAL (
        SELECT coalesce(k.pid::text, 'prepared') AS holder FROM pg_locks k
          WHERE k.locktype = 'transactionid' AND k.granted AND k.mode = 'ExclusiveLock'
            AND k.transactionid = pg_snapshot_xmin(pg_current_snapshot())::xid LIMIT 1
      ) h ON true
    ORDER BY c.name
$f$;

CREATE TABLE ${s}.inbox (
  consumer     text NOT NULL,
  message_id   text NOT NULL,
  processed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at   timestamptz NOT NULL,
  PRIMARY KEY (consumer, message_id)
);
CREATE INDEX inbox_expires ON ${s}.inbox (expires_at);
COMMENT ON TABLE ${s}.inbox IS 'Messages that a consumer has processed';

-- sweep_inbox: forgets so many of those whose time has passed.
CREATE FUNCTION ${s}.sweep_inbox(p_limit int) RETURNS int LANGUAGE sql AS $f$
  WITH gone AS (
    DELETE FROM ${s}.inbox WHERE (consumer, message_id) IN (
      SELECT consumer, message_id FROM ${s}.inbox WHERE expires_at <= clock_timestamp()
        ORDER BY expires_at LIMIT p_limit FOR UPDATE SKIP LOCKED)
      RETURNING 1
  ) SELECT count(*)::int FROM gone
$f$;

CREATE TABLE ${s}.schedule (
  name     text PRIMARY KEY CHECK (name <> ''),
  cron     text NOT NULL,
  timezone text NOT NULL,
  type     text NOT NULL,
  payload  json NOT NULL,
  missed   text NOT NULL CHECK (missed IN ('skip', 'once', 'all')),
  done_to  timestamptz NOT NULL DEFAULT clock_timestamp(),
  fired_at timestamptz
);
COMMENT ON COLUMN ${s}.schedule.done_to IS 'Every time up to this one has fired, or was dropped';
COMMENT ON COLUMN ${s}.schedule.fired_at IS 'The time for which it fired last';
`,
}
