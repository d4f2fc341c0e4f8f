-- Message ids carry the database's clock in their first 48 bits (RFC 9562, UUIDv7). PostgreSQL has uuidv7() from
-- 18 on; this one works on every supported version and gives the same layout.
CREATE OR REPLACE FUNCTION outhaul_uuidv7() RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$
    SELECT encode(
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                    PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                    FROM 1 FOR 6),
            52, 1), 53, 1),
        'hex')::uuid
$$;

-- Rows not yet confirmed, nothing else: the table stays small whatever the history's size.
CREATE TABLE outbox (
    message_id   uuid        NOT NULL DEFAULT outhaul_uuidv7(),
    seq          bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    exchange     text        NOT NULL,
    routing_key  text        NOT NULL,
    type         text        NOT NULL,
    source       text        NOT NULL,
    aggregate_id text        NOT NULL,
    payload      bytea       NOT NULL,
    content_type text        NOT NULL DEFAULT 'application/json',
    headers      jsonb       NOT NULL DEFAULT '{}',
    causation_id text,
    traceparent  text,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
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
CREATE INDEX outbox_aggregate ON outbox (aggregate_id);

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
