"""Day partitions of the history and the inbox: made a week ahead, dropped whole when retention is over.

The work is done by two functions in the database (see the schema), by its clock and with its owner's rights. A
sender or consumer that may not run them goes on without: the default partition takes the rows, and `outhaul doctor`
tells.

Both are plain SQL so that a sync and an async connection run the same statement.
"""

from __future__ import annotations

from typing import Final, LiteralString

DAYS_AHEAD: Final = 7

# (table, days ahead) -> how many partitions were made
MAKE_PARTITIONS: Final[LiteralString] = "SELECT outhaul_make_partitions(%s::text, %s::integer)"

# (table, days kept) -> how many partitions were dropped; keeps `retention.forgotten_before` up to date
DROP_PARTITIONS: Final[LiteralString] = "SELECT outhaul_drop_partitions(%s::text, %s::integer)"

# (table,) -> the instant before which rows may have been dropped; no row when nothing ever was
FORGOTTEN_BEFORE: Final[LiteralString] = "SELECT forgotten_before FROM retention WHERE table_name = %s::text"

# (consumer, days): announce how long this consumer needs its inbox rows
REGISTER_CONSUMER: Final[LiteralString] = """
INSERT INTO inbox_consumers (consumer, retention_days) VALUES (%s::text, %s::integer)
ON CONFLICT (consumer) DO UPDATE SET retention_days = excluded.retention_days, seen_at = clock_timestamp()"""

# -> days the inbox must keep: the longest retention of its consumers seen lately, none when there is no consumer
INBOX_KEEP_DAYS: Final[LiteralString] = """
SELECT max(retention_days) FROM inbox_consumers
WHERE seen_at > clock_timestamp() - make_interval(days => retention_days)"""
