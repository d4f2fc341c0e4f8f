"""Is this database fit to hold an outbox or an inbox? Each check is a read; none of them takes a lock that matters.

A finding's words stay the same while nothing changes (since when, not for how long; counts rounded), so that what
watches can tell a change from the passing of time.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from outhaul.database import schema_apply
from outhaul.errors import SchemaError
from outhaul.tools.findings import Finding, Level

Connection = psycopg.Connection[Any]

LONG_TRANSACTION_SECONDS: Final = 300.0
# A week is made ahead every hour; this much is left only when nobody has made any for days.
FEW_DAYS_AHEAD: Final = 3
OLDEST_SERVER: Final = 140_000
_MOST_COUNTED: Final = 100_000
_DEAD_ROWS: Final = 200_000

_SERVER: Final[LiteralString] = """
SELECT current_setting('server_version'), current_setting('server_version_num')::integer, pg_is_in_recovery(),
       current_setting('transaction_read_only') = 'on', current_setting('fsync') = 'on',
       current_setting('synchronous_commit')"""
_LONG_TRANSACTIONS: Final[LiteralString] = """
SELECT pid, coalesce(usename, '?'), coalesce(nullif(application_name, ''), 'no application name'), state,
       xact_start
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
  AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
  AND xact_start < clock_timestamp() - make_interval(secs => %s::float8)
ORDER BY xact_start LIMIT 5"""
_SEES_ALL: Final[LiteralString] = "SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')"
_PREPARED: Final[LiteralString] = """
SELECT gid, prepared FROM pg_prepared_xacts
WHERE database = current_database() AND prepared < clock_timestamp() - make_interval(secs => %s::float8) LIMIT 5"""
_SLOTS: Final[LiteralString] = """
SELECT slot_name FROM pg_replication_slots
WHERE NOT active AND (xmin IS NOT NULL OR catalog_xmin IS NOT NULL) LIMIT 5"""
# Not the last one there is: a gap before it sends a day's rows into the default partition all the same.
_FIRST_MISSING_DAY: Final[LiteralString] = """
SELECT coalesce(min(n), 368) FROM generate_series(0, 367) AS n,
     (SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date AS today) AS that
WHERE NOT EXISTS (
    SELECT FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = to_regclass(%(table)s) AND c.relname = %(table)s || '_p' || to_char(today + n, 'YYYYMMDD'))"""
_DEAD: Final[LiteralString] = """
SELECT n_dead_tup, n_live_tup FROM pg_stat_user_tables WHERE relid = to_regclass(%s)"""
_HISTORY: Final = {"outbox": "outbox_sent", "inbox": "inbox"}
_HOT_TABLE: Final = {"outbox": "outbox", "inbox": "deliveries"}


def examine(
    conn: Connection, component: str, *, long_transaction_seconds: float = LONG_TRANSACTION_SECONDS
) -> Iterator[Finding]:
    """Every check of one side's database (`outbox` or `inbox`). Raises psycopg's errors when it goes away."""
    yield from _server(conn, component)
    schema = _schema(conn, component)
    yield schema
    yield from _horizon(conn, component, long_transaction_seconds)
    if schema.level is not Level.PROBLEM:
        yield from _partitions(conn, component, _HISTORY[component])
        yield from _bloat(conn, component)


def _server(conn: Connection, component: str) -> Iterator[Finding]:
    check = f"{component} database"
    row = conn.execute(_SERVER).fetchone()
    assert row is not None
    version, number, standby, read_only, fsync, synchronous = row
    if number < OLDEST_SERVER:
        text = f"PostgreSQL {version} is older than any that is tried"
        yield Finding(check, Level.WARNING, text, "upgrade to 14 or newer")
    if standby or read_only:
        text = f"PostgreSQL {version} is {'a standby' if standby else 'read-only'}: nothing can be written"
        yield Finding(check, Level.PROBLEM, text, "connect to the primary (target_session_attrs=read-write in the DSN)")
    else:
        yield Finding(check, Level.OK, f"PostgreSQL {version}, writable")
    if not fsync:
        text = "fsync is off: a crash of the machine loses committed rows"
        yield Finding(f"{component} durability", Level.WARNING, text, "set fsync = on, unless this is a test")
    if synchronous == "off":
        text = "synchronous_commit is off: a crash may forget rows whose messages have been published"
        yield Finding(f"{component} durability", Level.WARNING, text, "set synchronous_commit = on for this database")


def _schema(conn: Connection, component: str) -> Finding:
    check = f"{component} schema"
    try:
        plan = schema_apply.plan(conn, component)
    except SchemaError as error:
        return Finding(check, Level.PROBLEM, str(error), "install the release that fits the database")
    if plan.missing:
        versions = ", ".join(str(step.version) for step in plan.missing)
        remedy = f"run: outhaul schema apply --component {component}"
        return Finding(check, Level.PROBLEM, f"lacks version {versions}", remedy)
    return Finding(check, Level.OK, f"version {plan.applied}")


def _horizon(conn: Connection, component: str, seconds: float) -> Iterator[Finding]:
    """What holds back vacuum: hot tables grow, and claims with them, while an old snapshot is open."""
    check = f"{component} vacuum"
    found = False
    for pid, user, application, state, began_at in conn.execute(_LONG_TRANSACTIONS, (seconds,)).fetchall():
        found = True
        text = f"a transaction of {user} ({application}, pid {pid}, {state}) is open since {_instant(began_at)}"
        yield Finding(check, Level.WARNING, text, f"end it where it was begun, or: SELECT pg_terminate_backend({pid})")
    for gid, prepared_at in conn.execute(_PREPARED, (seconds,)).fetchall():
        found = True
        text = f"a prepared transaction {gid!r} waits since {_instant(prepared_at)}"
        yield Finding(check, Level.WARNING, text, "COMMIT PREPARED or ROLLBACK PREPARED it")
    for (slot,) in conn.execute(_SLOTS).fetchall():
        found = True
        text = f"replication slot {slot!r} is not in use and holds back vacuum"
        yield Finding(check, Level.WARNING, text, f"start its reader, or: SELECT pg_drop_replication_slot({slot!r})")
    if not found:
        row = conn.execute(_SEES_ALL).fetchone()
        whose = "" if row and row[0] else " of this role; others are hidden from it (grant pg_read_all_stats)"
        yield Finding(check, Level.OK, f"no long transaction{whose}")


def _partitions(conn: Connection, component: str, table: str) -> Iterator[Finding]:
    check = f"{component} partitions"
    row = conn.execute(_FIRST_MISSING_DAY, {"table": table}).fetchone()
    missing = row[0] if row else 0
    remedy = (
        f"let the {'sender' if component == 'outbox' else 'consumer'}'s role EXECUTE outhaul_make_partitions, or run "
        f"`outhaul schema apply --component {component}` every few days"
    )
    if missing <= FEW_DAYS_AHEAD:
        day = "today's" if missing == 0 else f"that of {missing} day{'s' if missing > 1 else ''} from now"
        yield Finding(check, Level.WARNING, f"nobody makes partitions of {table}: {day} is missing", remedy)
    else:
        yield Finding(check, Level.OK, f"{table}: made {missing - 1} days ahead")
    counted = conn.execute(
        sql.SQL("SELECT count(*) FROM (SELECT FROM {} LIMIT %s) AS few").format(sql.Identifier(f"{table}_default")),
        (_MOST_COUNTED,),
    ).fetchone()
    rows = counted[0] if counted else 0
    if rows:
        text = f"{_about(rows)} rows lie in {table}_default"
        yield Finding(check, Level.WARNING, text, f"they are safe, and go with retention; {remedy}")


def _bloat(conn: Connection, component: str) -> Iterator[Finding]:
    table = _HOT_TABLE[component]
    row = conn.execute(_DEAD, (table,)).fetchone()
    if row and row[0] > _DEAD_ROWS and row[0] > row[1]:
        text = f"{table} has {_about(row[0])} dead rows, more than live ones: autovacuum does not keep up"
        yield Finding(
            f"{component} vacuum", Level.WARNING, text, "see what holds it back above, or give it more workers"
        )


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _about(count: int) -> str:
    """The count's first digit.

    >>> _about(7), _about(1234)
    ('7', '1000 or more')
    """
    step: int = 10 ** (len(str(count)) - 1)
    return str(count) if step == 1 else f"{count // step * step} or more"
