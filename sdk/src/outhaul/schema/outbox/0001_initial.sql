-- Message ids carry the database's clock in their first 48 bits (RFC 9562, UUIDv7). PostgreSQL has uuidv7() from
-- 18 on; this one works on every supported version and gives the same layout.
CREATE OR REPLACE FUNCTION outhaul_uuidv7() RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$
    SELECT encode(
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                    PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                    FROM 1 FOR 6),
            52, 1), 53, 1),
        'hex')::uuid
$$;

-- Rows not yet confirmed, nothing else: the table stays small whatever the history's size. What a statement over many rows
-- could not carry is refused here: a time that no program can hold would fail the claim, a name too long for the history's
-- index the marking, and the rows beside it with them.
CREATE TABLE outbox (
    message_id   uuid        NOT NULL DEFAULT outhaul_uuidv7(),
    seq          bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    exchange     text        NOT NULL,
    routing_key  text        NOT NULL,
    type         text        NOT NULL,
    source       text        NOT NULL,
    aggregate_id text        NOT NULL CHECK (octet_length(aggregate_id) <= 1024),
    payload      bytea       NOT NULL,
    content_type text        NOT NULL DEFAULT 'application/json',
    headers      jsonb       NOT NULL DEFAULT '{}',
    causation_id text,
    traceparent  text,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp()
                 CHECK (created_at >= '1970-01-01 00:00+00' AND created_at < '9999-01-01 00:00+00'),
    available_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_token  uuid,
    attempts     integer     NOT NULL DEFAULT 0,
    status       text        NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'parked')),
    park_reason  text,
    last_error   text,
    PRIMARY KEY (message_id)
) WITH (
    -- Every row is inserted, leased and deleted within seconds: vacuum by count, not by share of the table.
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 50000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 20000,
    autovacuum_vacuum_cost_delay = 1
);

-- One column says when a row may next be taken, so one index answers every claim.
CREATE INDEX outbox_available ON outbox (available_at, seq) WHERE status = 'pending';
CREATE INDEX outbox_parked ON outbox (message_id) WHERE status = 'parked';

-- Every message sent and when. The default partition is the net under a missing day: it never stops the marking.
CREATE TABLE outbox_sent (
    message_id   uuid        NOT NULL,
    seq          bigint      NOT NULL,
    exchange     text        NOT NULL,
    routing_key  text        NOT NULL,
    type         text        NOT NULL,
    aggregate_id text        NOT NULL,
    attempts     integer     NOT NULL,
    created_at   timestamptz NOT NULL,
    sent_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (message_id)
) PARTITION BY RANGE (message_id);
CREATE INDEX outbox_sent_aggregate ON outbox_sent (aggregate_id);
CREATE TABLE outbox_sent_default PARTITION OF outbox_sent DEFAULT;

-- Is anybody sending? A live sender's row is younger than three of its heartbeats.
CREATE TABLE senders (
    sender_id  uuid        NOT NULL PRIMARY KEY,
    name       text        NOT NULL,
    host       text        NOT NULL,
    version    text        NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    state      text        NOT NULL DEFAULT 'starting'
);

-- What people and Jobs did on purpose: resend, discard, redrive. The audit record.
CREATE TABLE IF NOT EXISTS runs (
    run_id      text        NOT NULL PRIMARY KEY,
    kind        text        NOT NULL,
    actor       text        NOT NULL,
    request     jsonb       NOT NULL,
    state       text        NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done', 'failed')),
    counts      jsonb       NOT NULL DEFAULT '{}',
    detail      text,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz
);

-- History is kept in day partitions of the id's own time. Both functions run with their owner's rights, so that a sender or
-- consumer needs no ownership: it needs EXECUTE on them, and they touch these tables only. Time is the database's.
CREATE TABLE IF NOT EXISTS retention (
    table_name       text        NOT NULL PRIMARY KEY CHECK (table_name IN ('outbox_sent', 'inbox')),
    forgotten_before timestamptz NOT NULL DEFAULT '-infinity'
);

-- Makes the partitions from yesterday until `days_ahead` from now that are missing; returns how many it made. A day whose rows
-- already lie in the default partition is left there: attaching would fail, and the rows are safe where they are.
CREATE OR REPLACE FUNCTION outhaul_make_partitions(target text, days_ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '2s'
AS $$
DECLARE
    today   date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    day     date;
    child   text;
    made    integer := 0;
    in_net  boolean;
BEGIN
    IF target NOT IN ('outbox_sent', 'inbox') THEN
        RAISE EXCEPTION 'outhaul_make_partitions: % is no partitioned table of Outhaul', target;
    END IF;
    IF days_ahead NOT BETWEEN 0 AND 366 THEN
        RAISE EXCEPTION 'outhaul_make_partitions: days_ahead is %, not between 0 and 366', days_ahead;
    END IF;
    -- One maker at a time; the others find the work done.
    PERFORM pg_advisory_xact_lock(hashtextextended('outhaul partitions ' || target, 0));
    FOR day IN SELECT today + n FROM generate_series(-1, days_ahead) AS n LOOP
        child := format('%s_p%s', target, to_char(day, 'YYYYMMDD'));
        CONTINUE WHEN to_regclass(quote_ident(child)) IS NOT NULL;
        EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE message_id >= %L AND message_id < %L)',
                       target || '_default', outhaul_first_id(day), outhaul_first_id(day + 1)) INTO in_net;
        CONTINUE WHEN in_net;
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)', child, target);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       target, child, outhaul_first_id(day), outhaul_first_id(day + 1));
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;

-- The smallest message id of a day (UTC): its milliseconds since the epoch, then zeros. No id is older than the epoch; a
-- negative number's hexadecimal would be the largest.
CREATE OR REPLACE FUNCTION outhaul_first_id(day date) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT (lpad(to_hex(greatest(day - DATE '1970-01-01', 0)::bigint * 86400000), 12, '0') || repeat('0', 20))::uuid
$$;

-- Drops the partitions that lie wholly before now - keep_days; returns how many. Remembers up to when it forgot, so that
-- nothing older is ever taken for new, whatever the retention is set to later.
CREATE OR REPLACE FUNCTION outhaul_drop_partitions(target text, keep_days integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '2s'
AS $$
DECLARE
    oldest  date;
    child   record;
    dropped integer := 0;
BEGIN
    IF target NOT IN ('outbox_sent', 'inbox') THEN
        RAISE EXCEPTION 'outhaul_drop_partitions: % is no partitioned table of Outhaul', target;
    END IF;
    IF keep_days NOT BETWEEN 1 AND 36500 THEN
        RAISE EXCEPTION 'outhaul_drop_partitions: keep_days is %, not between 1 and 36500', keep_days;
    END IF;
    oldest := (clock_timestamp() AT TIME ZONE 'UTC')::date - keep_days;
    PERFORM pg_advisory_xact_lock(hashtextextended('outhaul partitions ' || target, 0));
    INSERT INTO retention (table_name, forgotten_before) VALUES (target, oldest::timestamp AT TIME ZONE 'UTC')
    ON CONFLICT (table_name) DO UPDATE
        SET forgotten_before = greatest(retention.forgotten_before, excluded.forgotten_before);
    FOR child IN
        SELECT c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') AS day
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = to_regclass(quote_ident(target)) AND c.relname ~ ('^' || target || '_p[0-9]{8}$')
    LOOP
        CONTINUE WHEN child.day >= oldest;
        EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', target, child.relname);
        EXECUTE format('DROP TABLE %I', child.relname);
        dropped := dropped + 1;
    END LOOP;
    EXECUTE format('DELETE FROM %I WHERE message_id < %L', target || '_default', outhaul_first_id(oldest));
    RETURN dropped;
END
$$;
REVOKE ALL ON FUNCTION outhaul_make_partitions(text, integer), outhaul_drop_partitions(text, integer) FROM PUBLIC;

-- Temporary tables last: unnamed they are searched first, and a caller's own `retention` would be written, and its triggers
-- run, with the owner's rights.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION outhaul_make_partitions(text, integer) SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION outhaul_drop_partitions(text, integer) SET search_path = %I, pg_temp', current_schema());
END
$$;
