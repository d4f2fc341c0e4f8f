"""Every statement of the order function. Order, message and idempotency key are one statement: all of them or none.

The statement with a key, in the order in which its parts decide:

* ``known``: the key was used before and still counts, so nothing is written and its answer is given again.
* ``turn``: else one request at a time may have the key; the lock is the transaction's, and does not wait.
* ``keyed``: the key is taken. A row that is there already and has not expired was committed after this statement's
  snapshot; nothing is written then, and the caller asks again.
* ``message`` and ``placed``: written only for a key that was taken.
"""

from __future__ import annotations

from typing import Final, LiteralString

from outhaul.database.outbox_queries import INSERT_COLUMNS, INSERT_ONE_WHEN

_PLACED: Final[LiteralString] = """
INSERT INTO orders (order_id, customer, lines, total_cents, message_id)
SELECT %(order_id)s::uuid, %(customer)s::text, %(lines)s::jsonb, %(total_cents)s::bigint, message_id FROM message"""

_RECORD: Final[LiteralString] = INSERT_ONE_WHEN.format(columns=INSERT_COLUMNS, when="true")
_RECORD_WHEN_KEYED: Final[LiteralString] = INSERT_ONE_WHEN.format(
    columns=INSERT_COLUMNS, when="EXISTS (SELECT FROM keyed)"
)

# Put together from constants alone; what a request brings travels as parameters.
PLACE: Final[LiteralString] = f"""
WITH message AS ({_RECORD}),
placed AS ({_PLACED})
SELECT message_id, seq, created_at, true, NULL::uuid, NULL::uuid, NULL::bytea FROM message"""  # noqa: S608 - constants only

PLACE_WITH_KEY: Final[LiteralString] = f"""
WITH known AS MATERIALIZED (
    SELECT k.fingerprint, k.order_id, o.message_id
    FROM idempotency_keys AS k JOIN orders AS o USING (order_id)
    WHERE k.endpoint = %(endpoint)s::text AND k.key = %(key)s::text AND k.expires_at > (SELECT clock_timestamp())
), turn AS MATERIALIZED (
    SELECT CASE WHEN EXISTS (SELECT FROM known) THEN false
                ELSE pg_try_advisory_xact_lock(hashtextextended(%(endpoint)s::text || ' ' || %(key)s::text, 0))
           END AS mine
), keyed AS (
    INSERT INTO idempotency_keys AS k (endpoint, key, fingerprint, order_id, expires_at)
    SELECT %(endpoint)s::text, %(key)s::text, %(fingerprint)s::bytea, %(order_id)s::uuid,
           clock_timestamp() + make_interval(secs => %(keep_seconds)s::float8)
    FROM turn WHERE mine
    ON CONFLICT (endpoint, key) DO UPDATE
        SET fingerprint = excluded.fingerprint, order_id = excluded.order_id, expires_at = excluded.expires_at
        WHERE k.expires_at <= clock_timestamp()
    RETURNING k.order_id
), message AS ({_RECORD_WHEN_KEYED}),
placed AS ({_PLACED})
SELECT message.message_id, message.seq, message.created_at,
       turn.mine, known.order_id, known.message_id, known.fingerprint
FROM turn LEFT JOIN known ON true LEFT JOIN message ON true"""  # noqa: S608 - constants only

# The history is pruned to one partition by the id; a row in neither table was sent, or discarded, long ago.
SHOW: Final[LiteralString] = """
SELECT o.order_id, o.message_id, o.customer, o.lines, o.total_cents, o.created_at,
       CASE WHEN b.message_id IS NOT NULL THEN b.status WHEN s.message_id IS NOT NULL THEN 'sent' ELSE 'expired' END
FROM orders AS o
LEFT JOIN outbox AS b ON b.message_id = o.message_id
LEFT JOIN outbox_sent AS s ON s.message_id = o.message_id
WHERE o.order_id = %s"""

READY: Final[LiteralString] = """
SELECT to_regclass('orders') IS NOT NULL AND to_regclass('idempotency_keys') IS NOT NULL
       AND to_regclass('outbox') IS NOT NULL AND to_regclass('outbox_sent') IS NOT NULL,
       current_setting('transaction_read_only') = 'on'"""

FORGET_EXPIRED_KEYS: Final[LiteralString] = """
DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM idempotency_keys WHERE expires_at <= (SELECT clock_timestamp())
    ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED))
RETURNING 1"""
