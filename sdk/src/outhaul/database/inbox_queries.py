"""SQL of the consuming side. Every statement names the consumer first; ids and hashes travel as array literals.

READ COMMITTED throughout: an insert that meets another consumer's uncommitted row of the same id waits for its
end, and then inserts or does not. Ids are sorted by the caller over the whole transaction, so that two such waits
cannot form a circle.
"""

from __future__ import annotations

from typing import Final, LiteralString

# (idle milliseconds, consumer, ids, hashes) -> the ids that are new
#
# Whoever stops in the middle of its transaction, its host cut off or the process frozen, would lock these rows for as
# long as the server believes in its connection: two hours, by TCP's defaults, in which nobody else can handle them. So
# the transaction itself bounds its silence; said here it costs no round trip and works behind a pooler. A bound that
# somebody has set already stands.
INSERT: Final[LiteralString] = """
WITH bound AS MATERIALIZED (
    SELECT set_config('idle_in_transaction_session_timeout',
                      CASE current_setting('idle_in_transaction_session_timeout') WHEN '0' THEN %s::text
                           ELSE current_setting('idle_in_transaction_session_timeout') END, true)
)
INSERT INTO inbox (consumer, message_id, payload_hash)
SELECT %s::text, m.id, m.hash FROM bound, unnest(%s::uuid[], %s::bytea[]) AS m(id, hash)
ON CONFLICT DO NOTHING
RETURNING message_id::text"""

# (consumer, ids) -> id, hash of those whose effect is committed
LOOK_UP: Final[LiteralString] = """
SELECT message_id::text, payload_hash FROM inbox WHERE consumer = %s::text AND message_id = ANY(%s::uuid[])"""

# (consumer, ids): inside the transaction that inserted them, for messages it leaves to the next one
TAKE_BACK: Final[LiteralString] = """
DELETE FROM inbox WHERE consumer = %s::text AND message_id = ANY(%s::uuid[])"""

# (consumer, id, consumer, id) -> started, failed, first_failed_at; no row when the effect is committed
RECORD_STARTED: Final[LiteralString] = """
INSERT INTO deliveries (consumer, message_id, started)
SELECT %s::text, %s::uuid, 1
WHERE NOT EXISTS (SELECT FROM inbox WHERE consumer = %s::text AND message_id = %s::uuid)
ON CONFLICT (consumer, message_id) DO UPDATE
    SET started = deliveries.started + 1, updated_at = clock_timestamp()
RETURNING started, failed, first_failed_at"""

# (consumer, id, failed, error, consumer, id) -> first and last failure; no row when the effect is committed
RECORD_FAILED: Final[LiteralString] = """
INSERT INTO deliveries (consumer, message_id, failed, last_error, first_failed_at, last_failed_at)
SELECT %s::text, %s::uuid, %s::integer, %s::text, clock_timestamp(), clock_timestamp()
WHERE NOT EXISTS (SELECT FROM inbox WHERE consumer = %s::text AND message_id = %s::uuid)
ON CONFLICT (consumer, message_id) DO UPDATE
    SET started = 0,
        failed = greatest(deliveries.failed, excluded.failed),
        last_error = excluded.last_error,
        first_failed_at = coalesce(deliveries.first_failed_at, excluded.first_failed_at),
        last_failed_at = excluded.last_failed_at,
        updated_at = clock_timestamp()
RETURNING first_failed_at, last_failed_at"""

# (consumer, id, error): a run about to be ended from outside; the count stands where it was recorded before
RECORD_HANG: Final[LiteralString] = """
INSERT INTO deliveries (consumer, message_id, started, last_error) VALUES (%s::text, %s::uuid, 1, %s::text)
ON CONFLICT (consumer, message_id) DO UPDATE
    SET last_error = excluded.last_error,
        started = greatest(deliveries.started, 1),
        updated_at = clock_timestamp()"""

# (consumer, ids): an orderly outcome
CLEAR: Final[LiteralString] = """
DELETE FROM deliveries WHERE consumer = %s::text AND message_id = ANY(%s::uuid[])"""

# -> the database's clock, and the instant before which inbox rows may have been dropped
CLOCK: Final[LiteralString] = """
SELECT clock_timestamp(),
       (SELECT forgotten_before FROM retention WHERE table_name = 'inbox' AND isfinite(forgotten_before))"""

# (consumer, ids): runs that were held and are given back unfinished, which is no crash
UNSTART: Final[LiteralString] = """
UPDATE deliveries SET started = greatest(started - 1, 0), updated_at = clock_timestamp()
WHERE consumer = %s::text AND message_id = ANY(%s::uuid[])"""

PROBE: Final[LiteralString] = "SELECT 1"
