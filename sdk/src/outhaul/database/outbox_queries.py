"""Every statement on the producer's tables, by name. The lease rules stand here, where they hold for everybody.

* A claim takes rows by state, never by a cursor over ids: ids commit out of order.
* What is chosen and locked first stands in ``ANY(ARRAY(SELECT ...))``: run once, so the limit is exact (a semi join
  was seen to lock seven times as many), and the rows are then fetched by primary key whatever the planner believes of
  the table (a join was seen to scan 300,000 rows for a claim of 500, under a plan that did not know the limit).
* ``(SELECT clock_timestamp())`` is evaluated once, so the index serves; bare, it is volatile and it would not. Rows
  given one such instant together are claimed by ``seq`` again.
* Retry, park and release filter on the lease token. A confirm does not: it is a fact, whoever holds the row.
* Rows are locked in the order of their ids, or not waited for: two senders that confirm the same rows at once cannot
  deadlock. A plain DELETE locks in whatever order the planner likes.
"""

from __future__ import annotations

from typing import Final, LiteralString

ROW_COLUMNS: Final[LiteralString] = (
    "message_id, seq, exchange, routing_key, type, source, aggregate_id, payload, content_type, headers, "
    "causation_id, traceparent, created_at, attempts, lease_token"
)
INSERT_COLUMNS: Final[LiteralString] = (
    "exchange, routing_key, type, source, aggregate_id, payload, content_type, headers, causation_id, traceparent, "
    "lease_token, available_at"
)

# Several rows at once, in order; a lease (token, seconds) or none for all of them.
INSERT_MANY: Final[LiteralString] = f"""
INSERT INTO outbox ({INSERT_COLUMNS})
SELECT exchange, routing_key, type, source, aggregate_id, payload, content_type, headers::jsonb, causation_id,
       traceparent, %(lease_token)s::uuid, clock_timestamp() + make_interval(secs => %(lease_seconds)s::float8)
FROM unnest(%(exchange)s::text[], %(routing_key)s::text[], %(type)s::text[], %(source)s::text[],
            %(aggregate_id)s::text[], %(payload)s::bytea[], %(content_type)s::text[], %(headers)s::text[],
            %(causation_id)s::text[], %(traceparent)s::text[]) WITH ORDINALITY
     AS m (exchange, routing_key, type, source, aggregate_id, payload, content_type, headers, causation_id,
           traceparent, n)
ORDER BY n
RETURNING message_id, seq, created_at"""

# One row, to stand as a CTE in a statement of the caller's; {when} is the caller's condition.
INSERT_ONE_WHEN: Final[LiteralString] = """
INSERT INTO outbox ({columns})
SELECT %(outbox_exchange)s::text, %(outbox_routing_key)s::text, %(outbox_type)s::text, %(outbox_source)s::text,
       %(outbox_aggregate_id)s::text, %(outbox_payload)s::bytea, %(outbox_content_type)s::text,
       %(outbox_headers)s::jsonb, %(outbox_causation_id)s::text, %(outbox_traceparent)s::text,
       %(outbox_lease_token)s::uuid, clock_timestamp() + make_interval(secs => %(outbox_lease_seconds)s::float8)
WHERE {when}
RETURNING message_id, seq, created_at"""

CLAIM: Final[LiteralString] = f"""
UPDATE outbox
SET lease_token = %(token)s::uuid,
    available_at = (SELECT clock_timestamp()) + make_interval(secs => %(lease_seconds)s::float8)
WHERE message_id = ANY(ARRAY(
    SELECT message_id FROM outbox
    WHERE status = 'pending' AND available_at <= (SELECT clock_timestamp())
    ORDER BY available_at, seq
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED))
RETURNING {ROW_COLUMNS}"""

# A probe of one route: rows put off because of the route are free (no token) although not yet due.
CLAIM_ROUTE: Final[LiteralString] = f"""
UPDATE outbox
SET lease_token = %(token)s::uuid,
    available_at = (SELECT clock_timestamp()) + make_interval(secs => %(lease_seconds)s::float8)
WHERE message_id = ANY(ARRAY(
    SELECT message_id FROM outbox
    WHERE status = 'pending' AND exchange = %(exchange)s::text AND routing_key = %(routing_key)s::text
      AND (lease_token IS NULL OR available_at <= (SELECT clock_timestamp()))
    ORDER BY available_at, seq
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED))
RETURNING {ROW_COLUMNS}"""

# Chosen rows, whatever their wait; parked ones become pending. Rows leased to a live sender are left to it.
CLAIM_IDS: Final[LiteralString] = f"""
UPDATE outbox
SET lease_token = %(token)s::uuid,
    available_at = (SELECT clock_timestamp()) + make_interval(secs => %(lease_seconds)s::float8),
    attempts = CASE WHEN status = 'parked' THEN 0 ELSE attempts END, status = 'pending', park_reason = NULL
WHERE message_id = ANY(ARRAY(
    SELECT message_id FROM outbox
    WHERE message_id = ANY(%(ids)s::uuid[])
      AND (lease_token IS NULL OR available_at <= (SELECT clock_timestamp()) OR status = 'parked')
    FOR UPDATE SKIP LOCKED))
RETURNING {ROW_COLUMNS}"""

# Keyset pages of the ids a resend means, oldest first.
IDS_CREATED_BETWEEN: Final[LiteralString] = """
SELECT message_id FROM outbox
WHERE message_id > %(after)s AND message_id >= %(first)s AND message_id < %(last)s
ORDER BY message_id LIMIT %(limit)s"""
IDS_PARKED: Final[LiteralString] = """
SELECT message_id FROM outbox WHERE status = 'parked' AND message_id > %(after)s ORDER BY message_id LIMIT %(limit)s"""

CONFIRM: Final[LiteralString] = """
WITH done AS (
    DELETE FROM outbox
    WHERE message_id = ANY(ARRAY(
        SELECT message_id FROM outbox WHERE message_id = ANY(%s::uuid[])
        ORDER BY message_id
        FOR UPDATE))
    RETURNING message_id, seq, exchange, routing_key, type, aggregate_id, attempts, created_at
)
INSERT INTO outbox_sent (message_id, seq, exchange, routing_key, type, aggregate_id, attempts, created_at)
SELECT message_id, seq, exchange, routing_key, type, aggregate_id, attempts, created_at FROM done
ON CONFLICT DO NOTHING"""

RELEASE_WITH_LEASE: Final[LiteralString] = """
UPDATE outbox
SET lease_token = NULL,
    available_at = (SELECT clock_timestamp()) + make_interval(secs => %(delay_seconds)s::float8),
    last_error = %(last_error)s::text
WHERE message_id = ANY(ARRAY(
    SELECT o.message_id
    FROM outbox AS o JOIN unnest(%(ids)s::uuid[], %(tokens)s::uuid[]) AS held (message_id, lease_token)
      ON o.message_id = held.message_id AND o.lease_token = held.lease_token
    WHERE o.status = 'pending'
    ORDER BY o.message_id
    FOR UPDATE OF o))"""

# The broker refused this very message: one attempt spent, parked at the last.
FAIL_WITH_LEASE: Final[LiteralString] = """
UPDATE outbox
SET attempts = attempts + 1, last_error = %(last_error)s, lease_token = NULL,
    available_at = clock_timestamp() + make_interval(secs => %(delay_seconds)s::float8),
    status = CASE WHEN attempts + 1 >= %(max_attempts)s THEN 'parked' ELSE 'pending' END,
    park_reason = CASE WHEN attempts + 1 >= %(max_attempts)s THEN %(reason)s END
WHERE message_id = %(message_id)s AND lease_token = %(token)s AND status = 'pending'
RETURNING attempts, status"""

UNPARK: Final[LiteralString] = """
UPDATE outbox
SET status = 'pending', attempts = 0, park_reason = NULL, lease_token = NULL, available_at = clock_timestamp()
WHERE message_id = ANY(ARRAY(
    SELECT message_id FROM outbox WHERE message_id = ANY(%s::uuid[]) AND status = 'parked'
    ORDER BY message_id
    FOR UPDATE))
RETURNING message_id"""

# Discards are refused for rows a sender holds: it may be publishing them.
DISCARD: Final[LiteralString] = """
DELETE FROM outbox
WHERE message_id = ANY(ARRAY(
    SELECT message_id FROM outbox
    WHERE message_id = ANY(%s::uuid[])
      AND (status = 'parked' OR lease_token IS NULL OR available_at <= (SELECT clock_timestamp()))
    ORDER BY message_id
    FOR UPDATE))
RETURNING message_id, type, aggregate_id, status, last_error"""

# The cause of a route's trouble is gone: what was put off because of it is due now.
WAKE_ROUTE: Final[LiteralString] = """
UPDATE outbox SET available_at = (SELECT clock_timestamp()), last_error = NULL
WHERE message_id = ANY(ARRAY(
    SELECT message_id FROM outbox
    WHERE status = 'pending' AND lease_token IS NULL AND available_at > (SELECT clock_timestamp())
      AND exchange = %(exchange)s::text AND routing_key = %(routing_key)s::text
    ORDER BY available_at, seq
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED))"""

COUNT: Final[LiteralString] = """
SELECT count(*) FILTER (WHERE status = 'pending'),
       count(*) FILTER (WHERE status = 'pending' AND available_at <= at),
       count(*) FILTER (WHERE status = 'pending' AND available_at > at AND lease_token IS NOT NULL),
       count(*) FILTER (WHERE status = 'pending' AND available_at <= at
                          AND created_at < at - make_interval(secs => %(stuck_after_seconds)s::float8)),
       count(*) FILTER (WHERE status = 'parked'),
       min(created_at) FILTER (WHERE status = 'pending'),
       min(at)
FROM outbox RIGHT JOIN (SELECT clock_timestamp() AS at) AS clock ON true"""

# Every route of unsent rows, the most stuck first: pending, stuck, what a sender was told of it last, parked.
WAITING_ROUTES: Final[LiteralString] = """
SELECT exchange, routing_key,
       count(*) FILTER (WHERE status = 'pending') AS pending,
       count(*) FILTER (WHERE status = 'pending' AND available_at <= at
                          AND created_at < at - make_interval(secs => %(stuck_after_seconds)s::float8)) AS stuck,
       coalesce(max(last_error) FILTER (WHERE status = 'pending'), ''),
       count(*) FILTER (WHERE status = 'parked') AS parked
FROM outbox, (SELECT clock_timestamp() AS at) AS clock
GROUP BY 1, 2 ORDER BY stuck DESC, pending DESC, 1, 2 LIMIT %(limit)s"""
PARKED_REASONS: Final[LiteralString] = """
SELECT coalesce(park_reason, ''), count(*) FROM outbox
WHERE status = 'parked' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5"""

# The counts above over the rows that are due first: where a backlog is too large to be counted in full, say so many
# rows at least. The parameter is %(most)s.
_FIRST_ROWS: Final[LiteralString] = """(
    (SELECT status, exchange, routing_key, created_at, available_at, lease_token, last_error, park_reason
     FROM outbox WHERE status = 'pending' ORDER BY available_at, seq LIMIT %(most)s)
    UNION ALL
    (SELECT status, exchange, routing_key, created_at, available_at, lease_token, last_error, park_reason
     FROM outbox WHERE status = 'parked' LIMIT %(most)s)) AS outbox"""
COUNT_FIRST: Final[LiteralString] = COUNT.replace("FROM outbox", f"FROM {_FIRST_ROWS}")
WAITING_ROUTES_FIRST: Final[LiteralString] = WAITING_ROUTES.replace("FROM outbox", f"FROM {_FIRST_ROWS}")
PARKED_REASONS_FIRST: Final[LiteralString] = PARKED_REASONS.replace("FROM outbox", f"FROM {_FIRST_ROWS}")

# What slows an outbox down unseen: rows in the net under the partitions (counted up to a bound), and a snapshot held
# open. Another role's transactions show only to members of pg_read_all_stats.
HEALTH: Final[LiteralString] = """
SELECT (SELECT count(*) FROM (SELECT FROM outbox_sent_default LIMIT 10000) AS few),
       coalesce((SELECT max(extract(epoch FROM clock_timestamp() - xact_start)) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()), 0)::float8"""

HEARTBEAT: Final[LiteralString] = """
INSERT INTO senders (sender_id, name, host, version, state)
VALUES (%(sender_id)s, %(name)s, %(host)s, %(version)s, %(state)s)
ON CONFLICT (sender_id) DO UPDATE SET seen_at = clock_timestamp(), state = excluded.state"""
FORGET_SENDER: Final[LiteralString] = "DELETE FROM senders WHERE sender_id = %s"
FORGET_DEAD_SENDERS: Final[LiteralString] = """
DELETE FROM senders WHERE seen_at < clock_timestamp() - interval '1 day'"""
LIVE_SENDERS: Final[LiteralString] = """
SELECT sender_id, name, host, version, state, started_at, seen_at FROM senders
WHERE seen_at > clock_timestamp() - make_interval(secs => %(silent_seconds)s::float8)
ORDER BY started_at"""

RUN_START: Final[LiteralString] = """
INSERT INTO runs (run_id, kind, actor, request) VALUES (%(run_id)s, %(kind)s, %(actor)s, %(request)s::jsonb)
ON CONFLICT (run_id) DO NOTHING"""
RUN_PROGRESS: Final[LiteralString] = "UPDATE runs SET counts = %(counts)s::jsonb WHERE run_id = %(run_id)s"
RUN_FINISH: Final[LiteralString] = """
UPDATE runs SET state = %(state)s, counts = %(counts)s::jsonb, detail = %(detail)s, finished_at = clock_timestamp()
WHERE run_id = %(run_id)s"""
RUN_RECORD_DISCARD: Final[LiteralString] = """
UPDATE runs SET state = 'done', request = %(request)s::jsonb, counts = %(counts)s::jsonb, detail = %(detail)s,
       finished_at = clock_timestamp()
WHERE run_id = %(run_id)s"""
