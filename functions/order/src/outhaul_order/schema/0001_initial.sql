-- An order as it was taken. Its message is `message_id`, in `outbox` until it is confirmed and in `outbox_sent` after;
-- no foreign key, since the row moves between the two and is forgotten by retention.
CREATE TABLE orders (
    order_id    uuid        NOT NULL PRIMARY KEY,
    customer    text        NOT NULL,
    lines       jsonb       NOT NULL,
    total_cents bigint      NOT NULL CHECK (total_cents >= 0),
    message_id  uuid        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What was answered to a key, for as long as a client may ask again. Written by the statement that writes the order.
CREATE TABLE idempotency_keys (
    endpoint    text        NOT NULL,
    key         text        NOT NULL,
    fingerprint bytea       NOT NULL,
    order_id    uuid        NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (endpoint, key)
) WITH (
    -- As many rows come as go: vacuum by count, not by share of the table.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 100000
);
CREATE INDEX idempotency_keys_expires ON idempotency_keys (expires_at);
