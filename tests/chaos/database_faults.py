"""Faults of a database, each for as long as its block lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg
from psycopg import sql

END_OTHER_SESSIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
# A sequence outlives the rollback, so it counts the failures, and the same row does not fail for ever.
EVERY_SEVENTH_FAILS = """
CREATE SEQUENCE IF NOT EXISTS chaos_tries;
CREATE SEQUENCE IF NOT EXISTS chaos_failures;
CREATE OR REPLACE FUNCTION chaos_fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('chaos_tries') % 7 = 0 THEN
        PERFORM nextval('chaos_failures');
        RAISE EXCEPTION 'provoked' USING ERRCODE = TG_ARGV[0];
    END IF;
    RETURN NEW;
END $$
"""


@contextmanager
def locked(dsn: str, table: str) -> Iterator[None]:
    """An exclusive lock on the table, as a migration would hold it."""
    with psycopg.connect(dsn) as conn:
        conn.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table)))
        yield


@contextmanager
def read_only(dsn: str) -> Iterator[None]:
    """Every session that begins from now on can only read; those that there are end."""
    name = sql.Identifier(dsn.rpartition("/")[2])
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
        conn.execute(END_OTHER_SESSIONS)
    try:
        yield
    finally:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("SET default_transaction_read_only = off")
            conn.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
            conn.execute(END_OTHER_SESSIONS)


@contextmanager
def slots_exhausted(dsn: str, most: int) -> Iterator[str]:
    """Every connection the server has is taken; yields how it refused the next one, "" when it never did."""
    with ExitStack() as taken, psycopg.connect(dsn, autocommit=True) as own:
        own.execute(END_OTHER_SESSIONS)
        refusal = ""
        for _ in range(most + 1):
            try:
                taken.enter_context(psycopg.connect(dsn))
            except psycopg.OperationalError as error:
                refusal = str(error)
                break
        yield refusal


@contextmanager
def failing_inserts(dsn: str, table: str, sqlstate: str) -> Iterator[None]:
    """Every seventh row that is inserted fails with this SQLSTATE; see :func:`failures`."""
    trigger = sql.SQL("CREATE TRIGGER chaos_fail BEFORE INSERT ON {} FOR EACH ROW EXECUTE FUNCTION chaos_fail({})")
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(EVERY_SEVENTH_FAILS)
        conn.execute(trigger.format(sql.Identifier(table), sql.Literal(sqlstate)))
    try:
        yield
    finally:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(sql.SQL("DROP TRIGGER chaos_fail ON {}").format(sql.Identifier(table)))


def detach_partitions(dsn: str, table: str) -> int:
    """Leave the table its default partition alone; how many it had beside that."""
    named = (
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass "
        "AND inhrelid::regclass::text NOT LIKE '%%default'"
    )
    with psycopg.connect(dsn) as conn:
        children = conn.execute(named, (table,)).fetchall()
        for (child,) in children:
            detach = sql.SQL("ALTER TABLE {} DETACH PARTITION {}")
            conn.execute(detach.format(sql.Identifier(table), sql.Identifier(child)))
    return len(children)


def failures(dsn: str) -> int:
    """How many inserts :func:`failing_inserts` made fail."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM chaos_failures").fetchone()
    assert row is not None
    return int(row[0])
