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
