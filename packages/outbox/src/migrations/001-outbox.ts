import type { Migration } from '../migrate.ts'
import { quoteLiteral } from '../names.ts'

// Every function that works in PostgreSQL lives here. The rules they keep are in SPEC.md, under the same names.

/** Keys are spread over so many lanes; whoever hands out events of a key holds its lane meanwhile. */
export const LANES = 64

export const outboxMigration: Migration = {
  version: 1,
  name: 'outbox',
  sql: ({ schema: s, channel, lockClass }) => `
CREATE TABLE ${s}.event (
  id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  available_at timestamptz,
  expires_at   timestamptz,
  attempts     smallint NOT NULL DEFAULT 0,
  crashes      smallint NOT NULL DEFAULT 0,
  priority     smallint NOT NULL DEFAULT 0 CHECK (priority BETWEEN 0 AND 9),
  lane         smallint GENERATED ALWAYS AS ((hashtextextended(key, 0) & ${LANES - 1})::smallint) STORED,
  suspect      boolean NOT NULL DEFAULT false,
  type         text NOT NULL CHECK (type <> ''),
  key          text,
  payload      json NOT NULL,
  headers      json,
  last_error   text
) WITH (
  -- Rows live for moments: vacuum by their number, at once and at full speed, whatever the size of the table.
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
  autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 200000,
  autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000,
  autovacuum_vacuum_cost_delay = 0
);
COMMENT ON TABLE ${s}.event IS 'Events that wait or are worked on. What is done leaves.';
COMMENT ON COLUMN ${s}.event.available_at IS 'Not before; NULL: at once';
COMMENT ON COLUMN ${s}.event.attempts IS 'Attempts that ended with an error';
COMMENT ON COLUMN ${s}.event.crashes IS 'Times that its worker died while it ran alone';
COMMENT ON COLUMN ${s}.event.suspect IS 'It was being worked on when a worker died: it runs alone';

CREATE INDEX event_ready ON ${s}.event (type, priority, id) WHERE lane IS NULL AND available_at IS NULL AND NOT suspect;
CREATE INDEX event_keyed ON ${s}.event (lane, key, id) WHERE lane IS NOT NULL;
CREATE INDEX event_keyed_ready ON ${s}.event (lane, key) WHERE lane IS NOT NULL AND available_at IS NULL;
CREATE INDEX event_delayed ON ${s}.event (available_at) WHERE available_at IS NOT NULL;
CREATE INDEX event_suspect ON ${s}.event (id) WHERE suspect;

CREATE TABLE ${s}.lane (id smallint PRIMARY KEY);
INSERT INTO ${s}.lane SELECT generate_series(0, ${LANES - 1});
COMMENT ON TABLE ${s}.lane IS 'The lock of a lane is the lock of its row';

CREATE TABLE ${s}.worker (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name       text NOT NULL,
  presence   text NOT NULL CHECK (presence IN ('session', 'heartbeat')),
  idle       boolean NOT NULL DEFAULT false,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  beat_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  types      text[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0);

CREATE TABLE ${s}.claim (
  id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  worker_id bigint NOT NULL,
  effect    text NOT NULL CHECK (effect IN ('tx', 'lease')),
  loop      smallint,
  solo      boolean NOT NULL DEFAULT false,
  ids       bigint[] NOT NULL,
  keys      text[] NOT NULL DEFAULT '{}',
  begun_at  timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);
-- Ids of a large batch are packed each time: the quick way, where the server was built with it.
DO $d$ BEGIN
  ALTER TABLE ${s}.claim ALTER COLUMN ids SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $d$;
COMMENT ON TABLE ${s}.claim IS 'Events that a worker has begun, or may begin at any moment. Nobody takes them while this row is there';
COMMENT ON COLUMN ${s}.claim.loop IS 'tx: which of the worker''s transactions holds this row';

CREATE TABLE ${s}.dead_letter (
  id         bigint PRIMARY KEY,
  created_at timestamptz NOT NULL,
  died_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  attempts   smallint NOT NULL,
  crashes    smallint NOT NULL,
  priority   smallint NOT NULL,
  reason     text NOT NULL,
  type       text NOT NULL,
  key        text,
  payload    json NOT NULL,
  headers    json,
  error      text
);
CREATE INDEX dead_letter_type ON ${s}.dead_letter (type, id);

CREATE TABLE ${s}.dedup (
  type       text NOT NULL,
  key        text NOT NULL,
  event_id   bigint NOT NULL,
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (type, key)
);
CREATE INDEX dedup_expires ON ${s}.dedup (expires_at);

CREATE TABLE ${s}.paused (type text PRIMARY KEY, since timestamptz NOT NULL DEFAULT clock_timestamp());

-- wake: a notification where a worker sleeps. Workers that are busy say so, and writers then pay nothing at commit.
CREATE FUNCTION ${s}.wake() RETURNS void LANGUAGE plpgsql AS $f$
BEGIN
  IF EXISTS (SELECT FROM ${s}.worker WHERE idle) THEN
    PERFORM pg_notify(${quoteLiteral(channel)}, '');
  END IF;
END $f$;

-- wake_on_insert: for those who write to the table themselves:
--   CREATE TRIGGER wake AFTER INSERT ON event FOR EACH STATEMENT EXECUTE FUNCTION wake_on_insert()
CREATE FUNCTION ${s}.wake_on_insert() RETURNS trigger LANGUAGE plpgsql AS $f$
BEGIN
  PERFORM ${s}.wake();
  RETURN NULL;
END $f$;

-- enqueue: one event, in the transaction of the caller. NULL: its dedup key was taken within its window.
CREATE FUNCTION ${s}.enqueue(
  type text, payload json, headers json DEFAULT NULL, key text DEFAULT NULL, priority int DEFAULT 0,
  available_at timestamptz DEFAULT NULL, expires_at timestamptz DEFAULT NULL,
  dedup_key text DEFAULT NULL, dedup_window interval DEFAULT '1 day'
) RETURNS bigint LANGUAGE plpgsql AS $f$
#variable_conflict use_column
DECLARE v_id bigint;
BEGIN
  v_id := nextval(pg_get_serial_sequence(${quoteLiteral(`${s}.event`)}, 'id'));
  IF dedup_key IS NOT NULL THEN
    INSERT INTO ${s}.dedup AS d (type, key, event_id, expires_at)
      VALUES ($1, $8, v_id, clock_timestamp() + $9)
      ON CONFLICT (type, key) DO UPDATE SET event_id = excluded.event_id, expires_at = excluded.expires_at
        WHERE d.expires_at <= clock_timestamp();
    IF NOT FOUND THEN RETURN NULL; END IF;
  END IF;
  INSERT INTO ${s}.event (id, type, payload, headers, key, priority, available_at, expires_at)
    OVERRIDING SYSTEM VALUE VALUES (v_id, $1, $2, $3, $4, $5, $6, $7);
  PERFORM ${s}.wake();
  RETURN v_id;
END $f$;

-- enqueue_many: the same for many, in their order.
CREATE FUNCTION ${s}.enqueue_many(
  types text[], payloads json[], headers json[], keys text[], priorities smallint[], available_at timestamptz[],
  expires_at timestamptz[], dedup_keys text[], dedup_windows interval[]
) RETURNS SETOF bigint LANGUAGE plpgsql AS $f$
#variable_conflict use_column
DECLARE
  v_event record;
BEGIN
  IF array_position(dedup_keys, NULL) = 1 AND cardinality(array_remove(dedup_keys, NULL)) = 0 THEN
    RETURN QUERY INSERT INTO ${s}.event (type, payload, headers, key, priority, available_at, expires_at)
      SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7) RETURNING id;
    PERFORM ${s}.wake();
    RETURN;
  END IF;
  FOR v_event IN SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9) e (t, p, h, k, o, a, x, d, w) LOOP
    RETURN NEXT ${s}.enqueue(v_event.t, v_event.p, v_event.h, v_event.k, v_event.o, v_event.a, v_event.x, v_event.d, v_event.w);
  END LOOP;
END $f$;

-- finish: the end of attempts. p_failed: [{ id, attempts, verdict: retry | dead | discard | release, delay, reason, error }];
-- a retry that names the attempts before it counts once, however often it is said.
--   p_whole  what is done is there, or else nothing is: the effects in this transaction are not to outlive an event that left
CREATE FUNCTION ${s}.finish(p_done bigint[], p_failed json, p_whole boolean DEFAULT false) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $f$
DECLARE v_count int;
BEGIN
  IF cardinality(p_done) > 0 THEN
    IF (SELECT p.archive FROM ${s}.policy p) THEN
      WITH gone AS (DELETE FROM ${s}.event WHERE id = ANY (p_done) RETURNING *)
      INSERT INTO ${s}.archive (id, created_at, attempts, priority, type, key, payload, headers)
        SELECT id, created_at, least(attempts + 1, 32767), priority, type, key, payload, headers FROM gone;
    ELSE
      DELETE FROM ${s}.event WHERE id = ANY (p_done);
    END IF;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    IF p_whole AND v_count < cardinality(p_done) THEN
      RAISE EXCEPTION 'of % events that are done % are there no more', cardinality(p_done), cardinality(p_done) - v_count;
    END IF;
  END IF;
  IF p_failed IS NULL THEN RETURN; END IF;
  UPDATE ${s}.event e SET attempts = least(e.attempts + 1, 32767), last_error = f.error, suspect = false,
      available_at = clock_timestamp() + f.delay * interval '1 ms'
    FROM json_to_recordset(p_failed) AS f (id bigint, attempts int, verdict text, delay float8, error text)
    WHERE e.id = f.id AND f.verdict = 'retry' AND e.attempts = coalesce(f.attempts, e.attempts);
  WITH gone AS (
    DELETE FROM ${s}.event e USING json_to_recordset(p_failed) AS f (id bigint, verdict text, reason text, error text)
      WHERE e.id = f.id AND f.verdict IN ('dead', 'discard')
      RETURNING e.*, f.verdict, f.reason, f.error
  )
  INSERT INTO ${s}.dead_letter (id, created_at, attempts, crashes, priority, reason, type, key, payload, headers, error)
    SELECT id, created_at, attempts + (reason IN ('attempts', 'verdict'))::int, crashes, priority, reason, type, key, payload, headers,
        coalesce(error, last_error)
      FROM gone WHERE verdict = 'dead';
END $f$;

-- promote: events that became due join the others. It commits at once: what a long transaction promotes, nobody else sees.
CREATE FUNCTION ${s}.promote(p_limit int) RETURNS int LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $f$
DECLARE v_count int;
BEGIN
  UPDATE ${s}.event SET available_at = NULL WHERE id = ANY (array(
    SELECT e.id FROM ${s}.event e WHERE e.available_at <= clock_timestamp() ORDER BY e.available_at LIMIT p_limit
    FOR UPDATE SKIP LOCKED));
  GET DIAGNOSTICS v_count = ROW_COUNT;
  RETURN v_count;
END $f$;

-- claim: hands out events. The first row has no id: it says in meta which claim it is, where the next scan may begin,
-- when the next event is due, and whether there are suspects.
--   p_effect   lease, and tx with p_loop: a row of claim stands for the events once this is committed;
--              tx without p_loop: they stay locked until the caller's transaction ends, and nothing is written down
--   p_full     look at everything that is ready; else only behind the marks p_type, p_priority, p_low
--   p_low_claim  no claim below it is open
CREATE FUNCTION ${s}.claim(
  p_worker bigint, p_effect text, p_types text[], p_limits int[], p_total int, p_full boolean, p_low_claim bigint,
  p_type text[], p_priority smallint[], p_low bigint[], p_lane int, p_lane_key text, p_solo boolean, p_loop int DEFAULT NULL
) RETURNS TABLE (
  id bigint, type text, payload text, headers text, key text, attempts int, crashes int, created_at double precision, expired boolean,
  meta json
) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_mergejoin = off SET jit = off SET plan_cache_mode = force_generic_plan AS $f$
#variable_conflict use_column
DECLARE
  v_now timestamptz := clock_timestamp();
  v_lasting boolean := p_effect = 'lease' OR p_loop IS NOT NULL;
  v_snapshot pg_snapshot;
  v_claimed bigint[];
  v_claimed_keys text[];
  v_low_claim bigint;
  v_types text[];
  v_rest int[];
  v_place int;
  v_left int := p_total;
  v_want int;
  v_ids bigint[] := '{}';
  v_keys text[] := '{}';
  v_found bigint[];
  v_mark_types text[] := '{}';
  v_mark_priorities smallint[] := '{}';
  v_mark_lows bigint[] := '{}';
  v_lane int := p_lane;
  v_lane_key text := p_lane_key;
  v_key text;
  v_from text;
  v_wrapped boolean;
  v_outrun boolean := false;
  v_claim bigint;
  v_meta json;
  v_due timestamptz;
  v_pair record;
  v_event record;
BEGIN
  IF p_loop IS NOT NULL THEN
    -- What is claimed for a transaction outlives the worker, not the server: it need not wait for the disk.
    PERFORM set_config('synchronous_commit', 'off', true);
    -- What this loop left behind is over, unless a connection that was given up still holds it.
    DELETE FROM ${s}.claim WHERE id = ANY (array(
      SELECT c.id FROM ${s}.claim c WHERE c.id >= p_low_claim AND c.worker_id = p_worker AND c.loop = p_loop FOR UPDATE SKIP LOCKED));
  END IF;
  -- Which events are begun.
  SELECT coalesce(array_agg(u.id) FILTER (WHERE u.id IS NOT NULL), '{}'), coalesce(min(c.id), p_low_claim),
      pg_current_snapshot()
    INTO v_claimed, v_low_claim, v_snapshot
    FROM ${s}.claim c LEFT JOIN LATERAL unnest(c.ids) u (id) ON true WHERE c.id >= p_low_claim;
  SELECT coalesce(array_agg(l.type ORDER BY l.place), '{}'), coalesce(array_agg(l.n ORDER BY l.place), '{}') INTO v_types, v_rest
    FROM unnest(p_types, p_limits) WITH ORDINALITY l (type, n, place) WHERE l.type NOT IN (SELECT p.type FROM ${s}.paused p);

  IF p_solo THEN
    -- One suspect, the first of its key, to run with nothing beside it.
    FOR v_event IN
      SELECT e.id, e.key FROM ${s}.event e
        WHERE e.suspect AND e.type = ANY (v_types) AND (e.available_at IS NULL OR e.available_at <= v_now)
          AND e.id NOT IN (SELECT unnest(v_claimed))
        ORDER BY e.id
    LOOP
      PERFORM FROM ${s}.event e WHERE e.id = v_event.id FOR UPDATE SKIP LOCKED;
      CONTINUE WHEN NOT FOUND;
      IF v_event.key IS NOT NULL THEN
        PERFORM FROM ${s}.lane l WHERE l.id = hashtextextended(v_event.key, 0) & ${LANES - 1} FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        CONTINUE WHEN EXISTS (SELECT FROM ${s}.claim c WHERE c.id >= p_low_claim AND v_event.key = ANY (c.keys));
        CONTINUE WHEN EXISTS (SELECT FROM ${s}.event p
          WHERE p.lane = hashtextextended(v_event.key, 0) & ${LANES - 1} AND p.key = v_event.key AND p.id < v_event.id);
        v_keys := array[v_event.key];
      END IF;
      v_ids := array[v_event.id];
      EXIT;
    END LOOP;
  ELSE
    IF p_full AND v_lasting THEN PERFORM ${s}.promote(p_total); END IF;

    -- Events without a key: by priority, types taking turns.
    FOR v_pair IN
      SELECT m.type, m.priority, m.low FROM unnest(p_type, p_priority, p_low) m (type, priority, low)
        WHERE NOT p_full AND m.type = ANY (v_types)
      UNION ALL
      SELECT l.type, d.priority, 0 FROM unnest(p_types) l (type),
          LATERAL (
            WITH RECURSIVE distinct_priority AS (
              (SELECT e.priority FROM ${s}.event e
                WHERE e.type = l.type AND e.lane IS NULL AND e.available_at IS NULL AND NOT e.suspect ORDER BY e.priority LIMIT 1)
              UNION ALL
              SELECT (SELECT e.priority FROM ${s}.event e
                WHERE e.type = l.type AND e.priority > p.priority AND e.lane IS NULL AND e.available_at IS NULL AND NOT e.suspect
                ORDER BY e.priority LIMIT 1)
              FROM distinct_priority p WHERE p.priority IS NOT NULL
            ) SELECT priority FROM distinct_priority WHERE priority IS NOT NULL
          ) d
        WHERE p_full AND l.type = ANY (v_types)
      ORDER BY 2
    LOOP
      v_place := array_position(v_types, v_pair.type);
      v_want := least(v_left, v_rest[v_place]);
      CONTINUE WHEN v_want <= 0;
      v_found := array(
        SELECT e.id FROM ${s}.event e
          WHERE e.type = v_pair.type AND e.priority = v_pair.priority AND e.id > v_pair.low
            AND e.lane IS NULL AND e.available_at IS NULL AND NOT e.suspect
            AND e.id NOT IN (SELECT unnest(v_claimed))
          ORDER BY e.id LIMIT v_want FOR UPDATE SKIP LOCKED);
      IF cardinality(v_found) > 0 THEN
        v_mark_types := v_mark_types || v_pair.type;
        v_mark_priorities := v_mark_priorities || v_pair.priority;
        v_mark_lows := v_mark_lows || v_found[1] - 1;
        v_ids := v_ids || v_found;
        v_left := v_left - cardinality(v_found);
        v_rest[v_place] := v_rest[v_place] - cardinality(v_found);
      END IF;
    END LOOP;

    -- Events with a key: lane by lane, key by key, from the first event of the key as far as nothing bars the way.
    -- Keys of which all events wait for their time are not looked at.
    IF v_left > 0 AND EXISTS (SELECT FROM ${s}.event e WHERE e.lane IS NOT NULL AND e.available_at IS NULL) THEN
      FOR v_turn IN 0..${LANES} LOOP
        EXIT WHEN v_left <= 0;
        v_lane := (p_lane + v_turn) % ${LANES};
        IF v_turn > 0 THEN v_lane_key := NULL; END IF;
        CONTINUE WHEN NOT EXISTS (SELECT FROM ${s}.event e WHERE e.lane = v_lane AND e.available_at IS NULL);
        PERFORM FROM ${s}.lane l WHERE l.id = v_lane FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        -- Read behind the lock: what another worker claimed in this lane is visible now.
        SELECT coalesce(array_agg(u.key), '{}') INTO v_claimed_keys FROM ${s}.claim c, unnest(c.keys) u (key)
          WHERE c.id >= p_low_claim;
        v_from := v_lane_key;
        v_key := v_lane_key;
        v_wrapped := v_from IS NULL;
        LOOP
          EXIT WHEN v_left <= 0;
          IF v_key IS NULL THEN
            SELECT e.key INTO v_key FROM ${s}.event e WHERE e.lane = v_lane AND e.available_at IS NULL ORDER BY e.key LIMIT 1;
          ELSE
            SELECT e.key INTO v_key FROM ${s}.event e WHERE e.lane = v_lane AND e.available_at IS NULL AND e.key > v_key
              ORDER BY e.key LIMIT 1;
          END IF;
          IF v_key IS NULL THEN
            EXIT WHEN v_wrapped;
            v_wrapped := true;
            CONTINUE;
          END IF;
          EXIT WHEN v_wrapped AND v_key > v_from;
          CONTINUE WHEN v_key = ANY (v_claimed_keys) OR v_key = ANY (v_keys);
          v_found := '{}';
          FOR v_event IN
            SELECT e.id, e.type, e.available_at, e.suspect FROM ${s}.event e
              WHERE e.lane = v_lane AND e.key = v_key ORDER BY e.id LIMIT least(v_left, 100)
          LOOP
            v_place := array_position(v_types, v_event.type);
            EXIT WHEN v_event.suspect OR v_event.available_at > v_now OR v_place IS NULL OR v_rest[v_place] <= 0;
            v_rest[v_place] := v_rest[v_place] - 1;
            v_found := v_found || v_event.id;
          END LOOP;
          CONTINUE WHEN cardinality(v_found) = 0;
          v_ids := v_ids || v_found;
          v_keys := v_keys || v_key;
          v_left := v_left - cardinality(v_found);
        END LOOP;
        v_lane_key := v_key;
      END LOOP;
    END IF;
  END IF;

  IF cardinality(v_ids) > 0 THEN
    -- Behind the locks: a claim that was committed since the first look is visible now.
    v_found := array(SELECT unnest(c.ids) FROM ${s}.claim c WHERE c.id >= p_low_claim);
    IF v_ids && v_found THEN
      v_outrun := true;
      v_ids := array(SELECT u.id FROM unnest(v_ids) WITH ORDINALITY u (id, place)
        WHERE u.id NOT IN (SELECT unnest(v_found)) ORDER BY u.place);
    END IF;
    IF v_lasting THEN
      -- A worker that was buried claims nothing: nobody would free it. The lock keeps those who bury it waiting.
      PERFORM FROM ${s}.worker w WHERE w.id = p_worker FOR KEY SHARE;
      IF NOT FOUND THEN v_ids := '{}'; END IF;
    END IF;
    IF v_lasting AND cardinality(v_ids) > 0 THEN
      INSERT INTO ${s}.claim (worker_id, effect, loop, solo, ids, keys) VALUES (p_worker, p_effect, p_loop, p_solo, v_ids, v_keys)
        RETURNING claim.id INTO v_claim;
    END IF;
  END IF;

  IF cardinality(v_ids) < p_total AND NOT p_solo THEN
    SELECT min(e.available_at) INTO v_due FROM ${s}.event e WHERE e.available_at IS NOT NULL AND e.available_at > v_now;
  END IF;
  v_meta := json_build_object(
    'claim', v_claim::text, 'outrun', v_outrun, 'lowClaim', v_low_claim::text,
    'xmin', pg_snapshot_xmin(v_snapshot)::text, 'xmax', pg_snapshot_xmax(v_snapshot)::text, 'types', v_mark_types, 'priorities', v_mark_priorities, 'lows', v_mark_lows::text[], 'lane', v_lane, 'laneKey', v_lane_key,
    'dueMs', ceil(extract(epoch FROM v_due - v_now) * 1000),
    'suspects', EXISTS (SELECT FROM ${s}.event e WHERE e.suspect AND e.type = ANY (v_types)
      AND (e.available_at IS NULL OR e.available_at <= v_now) AND e.id NOT IN (SELECT unnest(v_claimed))
      AND (e.key IS NULL OR NOT EXISTS (SELECT FROM ${s}.event p WHERE p.lane = e.lane AND p.key = e.key AND p.id < e.id))));
  RETURN QUERY SELECT NULL::bigint, NULL, NULL, NULL, NULL, NULL::int, NULL::int, NULL::float8, NULL::boolean, v_meta;
  -- What is mostly so is NULL: it costs nothing on the way.
  IF cardinality(v_mark_types) = 1 AND cardinality(v_keys) = 0 AND v_ids[cardinality(v_ids)] - v_ids[1] < 2 * cardinality(v_ids) THEN
    -- Of one type and priority, and close together: in one go along the index.
    RETURN QUERY
      SELECT e.id, e.type, e.payload::text, e.headers::text, e.key, nullif(e.attempts::int, 0), nullif(e.crashes::int, 0),
          date_part('epoch', e.created_at) * 1000, nullif(e.expires_at <= v_now, false), NULL::json
        FROM ${s}.event e WHERE e.id BETWEEN v_ids[1] AND v_ids[cardinality(v_ids)] AND (e.id IN (SELECT unnest(v_ids))) IS TRUE
        ORDER BY e.id;
  ELSE
    RETURN QUERY
      SELECT e.id, e.type, e.payload::text, e.headers::text, e.key, nullif(e.attempts::int, 0), nullif(e.crashes::int, 0),
          date_part('epoch', e.created_at) * 1000, nullif(e.expires_at <= v_now, false), NULL::json
        FROM unnest(v_ids) WITH ORDINALITY u (id, place) JOIN ${s}.event e ON e.id = u.id ORDER BY u.place;
  END IF;
END $f$;

-- hold: the transaction in which events run holds their claim. While it is open nobody takes over; NULL: somebody has.
CREATE FUNCTION ${s}.hold(p_worker bigint, p_loop int, p_low_claim bigint) RETURNS bigint LANGUAGE plpgsql SET enable_seqscan = off AS $f$
DECLARE v_claim bigint;
BEGIN
  SELECT c.id INTO v_claim FROM ${s}.claim c WHERE c.id >= p_low_claim AND c.worker_id = p_worker AND c.loop = p_loop
    FOR UPDATE SKIP LOCKED;
  RETURN v_claim;
END $f$;

-- complete: the end of events and of their claim, in the transaction that holds it.
CREATE FUNCTION ${s}.complete(p_claim bigint, p_xact xid8, p_done bigint[], p_failed json) RETURNS void LANGUAGE plpgsql SET enable_seqscan = off AS $f$
BEGIN
  IF pg_current_xact_id() <> p_xact AND pg_xact_status(p_xact) = 'aborted' THEN
    RAISE EXCEPTION 'the handler has rolled back the transaction that it ran in: throw instead, or use transaction()';
  END IF;
  PERFORM ${s}.finish(p_done, p_failed, true);
  DELETE FROM ${s}.claim WHERE id = p_claim;
END $f$;

-- settle: the end of attempts of leased events, each under the claim it was begun with. A claim that is gone has been
-- taken over: what was done under it is not counted, and its id is returned.
--   p_kept: [{ claim, ids, keys }], what goes on of claims that lasted long
CREATE FUNCTION ${s}.settle(p_done bigint[], p_done_claims bigint[], p_failed json, p_closed bigint[], p_kept json)
RETURNS bigint[] LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $f$
DECLARE
  v_asked bigint[];
  v_held bigint[];
BEGIN
  v_asked := array(SELECT DISTINCT c FROM unnest(p_done_claims) c
    UNION SELECT DISTINCT f.claim FROM json_to_recordset(coalesce(p_failed, '[]')) AS f (claim bigint)
    UNION SELECT c FROM unnest(p_closed) c);
  v_held := array(SELECT c.id FROM ${s}.claim c WHERE c.id = ANY (v_asked) ORDER BY c.id FOR UPDATE);
  IF cardinality(v_held) = cardinality(v_asked) THEN
    PERFORM ${s}.finish(p_done, p_failed);
  ELSE
    PERFORM ${s}.finish(
      array(SELECT d.id FROM unnest(p_done, p_done_claims) d (id, claim) WHERE d.claim = ANY (v_held)),
      (SELECT json_agg(f) FROM json_array_elements(coalesce(p_failed, '[]')) f WHERE (f ->> 'claim')::bigint = ANY (v_held)));
  END IF;
  DELETE FROM ${s}.claim WHERE id = ANY (p_closed);
  IF p_kept IS NOT NULL THEN
    UPDATE ${s}.claim c SET ids = k.ids, keys = k.keys
      FROM json_to_recordset(p_kept) AS k (claim bigint, ids bigint[], keys text[]) WHERE c.id = k.claim;
  END IF;
  RETURN array(SELECT unnest(v_asked) EXCEPT SELECT unnest(v_held));
END $f$;

-- step: settle and claim in one commit. A first row whose meta holds \`lost\` names the claims that were gone.
CREATE FUNCTION ${s}.step(
  p_done bigint[], p_done_claims bigint[], p_failed json, p_closed bigint[], p_kept json,
  p_worker bigint, p_types text[], p_limits int[], p_total int, p_full boolean, p_low_claim bigint,
  p_type text[], p_priority smallint[], p_low bigint[], p_lane int, p_lane_key text, p_solo boolean
) RETURNS TABLE (
  id bigint, type text, payload text, headers text, key text, attempts int, crashes int, created_at double precision, expired boolean,
  meta json
) LANGUAGE plpgsql AS $f$
DECLARE v_lost bigint[];
BEGIN
  IF cardinality(p_closed) > 0 OR cardinality(p_done) > 0 OR p_failed IS NOT NULL OR p_kept IS NOT NULL THEN
    v_lost := ${s}.settle(p_done, p_done_claims, p_failed, p_closed, p_kept);
    IF cardinality(v_lost) > 0 THEN
      RETURN QUERY SELECT NULL::bigint, NULL, NULL, NULL, NULL, NULL::int, NULL::int, NULL::float8, NULL::boolean,
        json_build_object('lost', v_lost::text[]);
    END IF;
  END IF;
  IF p_total > 0 THEN
    RETURN QUERY SELECT * FROM ${s}.claim(p_worker, 'lease', p_types, p_limits, p_total, p_full, p_low_claim,
      p_type, p_priority, p_low, p_lane, p_lane_key, p_solo);
  END IF;
END $f$;

-- rescue: frees what dead workers had begun. Returns how many of them there were.
CREATE FUNCTION ${s}.rescue(p_worker bigint, p_beat_limit interval, p_max_crashes int) RETURNS int LANGUAGE plpgsql AS $f$
DECLARE
  v_worker record;
  v_ids bigint[];
  v_solo bigint[];
  v_claims bigint[];
  v_count int := 0;
BEGIN
  FOR v_worker IN SELECT w.id, w.presence FROM ${s}.worker w WHERE w.id <> p_worker
      AND (w.presence = 'session' OR w.beat_at < clock_timestamp() - p_beat_limit) ORDER BY w.id LOOP
    -- Whoever gets the lock of a worker knows that it is dead, and is the only one to bury it.
    CONTINUE WHEN NOT pg_try_advisory_xact_lock(${lockClass}, v_worker.id::int);
    -- Locked: a statement of it still runs on the server, and may claim.
    PERFORM FROM ${s}.worker w WHERE w.id = v_worker.id
      AND (w.presence = 'session' OR w.beat_at < clock_timestamp() - p_beat_limit) FOR UPDATE SKIP LOCKED;
    CONTINUE WHEN NOT FOUND;
    -- What is still locked: the server has not yet noticed the death of its connection.
    CONTINUE WHEN (SELECT count(*) FROM (SELECT FROM ${s}.claim c WHERE c.worker_id = v_worker.id FOR UPDATE SKIP LOCKED) locked)
      < (SELECT count(*) FROM ${s}.claim c WHERE c.worker_id = v_worker.id);
    v_ids := array(SELECT DISTINCT unnest(c.ids) FROM ${s}.claim c WHERE c.worker_id = v_worker.id);
    v_solo := array(SELECT unnest(c.ids) FROM ${s}.claim c WHERE c.worker_id = v_worker.id AND c.solo);
    CONTINUE WHEN (SELECT count(*) FROM (SELECT FROM ${s}.event e WHERE e.id = ANY (v_ids) FOR UPDATE SKIP LOCKED) locked)
      < (SELECT count(*) FROM ${s}.event e WHERE e.id = ANY (v_ids));
    UPDATE ${s}.event e SET suspect = true, crashes = e.crashes + (e.id = ANY (v_solo))::int WHERE e.id = ANY (v_ids);
    PERFORM ${s}.finish('{}', (
      SELECT json_agg(json_build_object('id', e.id, 'verdict', 'dead', 'reason', 'crash',
          'error', format('its worker died %s times while it ran alone', e.crashes)))
        FROM ${s}.event e WHERE e.id = ANY (v_solo) AND e.crashes >= p_max_crashes));
    DELETE FROM ${s}.claim c WHERE c.worker_id = v_worker.id;
    DELETE FROM ${s}.worker w WHERE w.id = v_worker.id;
    v_count := v_count + 1;
  END LOOP;
  -- What workers that signed off left on connections that the server had not ended yet: nothing died of it.
  v_claims := array(SELECT c.id FROM ${s}.claim c
    WHERE NOT EXISTS (SELECT FROM ${s}.worker w WHERE w.id = c.worker_id) FOR UPDATE OF c SKIP LOCKED);
  IF cardinality(v_claims) > 0 THEN
    DELETE FROM ${s}.claim c WHERE c.id = ANY (v_claims);
    v_count := v_count + 1;
  END IF;
  IF v_count > 0 THEN PERFORM ${s}.wake(); END IF;
  RETURN v_count;
END $f$;

-- sign_off: a worker that has stopped. What tx batches left behind goes with it, or with the next rescue where the server
-- still runs a statement of theirs; leases that were given back are gone already.
-- With the lock of its row a claim that was being made is there when one looks for claims.
CREATE FUNCTION ${s}.sign_off(p_worker bigint) RETURNS void LANGUAGE plpgsql AS $f$
BEGIN
  PERFORM FROM ${s}.worker w WHERE w.id = p_worker FOR UPDATE;
  DELETE FROM ${s}.claim WHERE id = ANY (array(
    SELECT c.id FROM ${s}.claim c WHERE c.worker_id = p_worker AND c.effect = 'tx' FOR UPDATE SKIP LOCKED));
  DELETE FROM ${s}.worker w WHERE w.id = p_worker
    AND NOT EXISTS (SELECT FROM ${s}.claim c WHERE c.worker_id = p_worker AND c.effect = 'lease');
END $f$;
`,
}
