-- One waybill an order. The inbox keeps a redelivered message from making a second one; UNIQUE (order_id) is the last line
-- of defence, against another message for the same order: that one is a dead letter.
CREATE TABLE waybills (
    waybill_id uuid        NOT NULL PRIMARY KEY DEFAULT gen_random_uuid(),
    order_id   uuid        NOT NULL UNIQUE,
    customer   text        NOT NULL,
    lines      jsonb       NOT NULL,
    message_id uuid        NOT NULL,
    sequence   bigint,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
