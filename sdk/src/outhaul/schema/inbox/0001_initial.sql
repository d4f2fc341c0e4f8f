-- Every message whose effect is committed. The primary key is what makes a redelivery harmless; the day partitions
-- (on the id's own time) are what lets it forget safely.
CREATE TABLE inbox (
    consumer     text        NOT NULL,
    message_id   uuid        NOT NULL,
    payload_hash bytea       NOT NULL,
    processed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, message_id)
) PARTITION BY RANGE (message_id);
CREATE TABLE inbox_default PARTITION OF inbox DEFAULT;

-- Deliveries that did not end well yet. `started` counts runs that nobody saw end (a crash or a hang), `failed` counts
-- failures that were seen. Cleared on any orderly outcome, so it is empty when all is well.
CREATE TABLE deliveries (
    consumer        text        NOT NULL,
    message_id      uuid        NOT NULL,
    started         integer     NOT NULL DEFAULT 0,
    failed          integer     NOT NULL DEFAULT 0,
    first_failed_at timestamptz,
    last_failed_at  timestamptz,
    last_error      text,
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, message_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

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

-- Who consumes here, and how long each wants to remember: partitions are dropped by the longest of them.
CREATE TABLE inbox_consumers (
    consumer       text        NOT NULL PRIMARY KEY,
    retention_days integer     NOT NULL CHECK (retention_days >= 1),
    seen_at        timestamptz NOT NULL DEFAULT clock_timestamp()
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
