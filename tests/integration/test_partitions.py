"""Day partitions of the history and the inbox: made ahead, dropped whole, never in the way of the marking."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from outbox_support import record, shared_database
from outhaul.database.outbox_queries import CONFIRM
from outhaul.database.partitions import DROP_PARTITIONS, FORGOTTEN_BEFORE, MAKE_PARTITIONS
from outhaul.ids import first_at

Conn = psycopg.Connection[Any]

_SENT = """
INSERT INTO outbox_sent (message_id, seq, exchange, routing_key, type, aggregate_id, attempts, created_at)
VALUES (%s, 1, 'e', 'r', 't', 'a', 0, clock_timestamp())"""
_INBOX = "INSERT INTO inbox (consumer, message_id, payload_hash) VALUES ('c', %s, '')"
INSERT = {"outbox_sent": _SENT, "inbox": _INBOX}


@pytest.fixture(params=["outbox_sent", "inbox"])
def table(request: pytest.FixtureRequest) -> str:
    """Both tables have the same life."""
    return str(request.param)


@pytest.fixture(scope="module")
def database(postgres_url: str) -> Iterator[str]:
    with shared_database(postgres_url, "outbox", "inbox") as dsn:
        yield dsn


@pytest.fixture
def conn(database: str) -> Iterator[Conn]:
    """In a transaction that is undone: tables come and go in it as rows do."""
    with psycopg.connect(database, autocommit=True) as conn, conn.transaction(force_rollback=True):
        yield conn


@pytest.fixture
def alone(outbox_dsn: str) -> Iterator[Conn]:
    """A producer's database that others may look at meanwhile."""
    with psycopg.connect(outbox_dsn, autocommit=True) as conn:
        yield conn


def day_of(conn: Conn) -> date:
    row = conn.execute("SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date").fetchone()
    assert row is not None
    return date.fromisoformat(str(row[0]))


def id_of(day: date, tail: int = 1) -> UUID:
    """An id made at noon (UTC) of that day."""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    return UUID(int=first_at(noon).int | 7 << 76 | 2 << 62 | tail)


def make(conn: Conn, table: str, days_ahead: int = 7) -> int:
    row = conn.execute(MAKE_PARTITIONS, (table, days_ahead)).fetchone()
    assert row is not None
    return int(row[0])


def drop(conn: Conn, table: str, keep_days: int) -> int:
    row = conn.execute(DROP_PARTITIONS, (table, keep_days)).fetchone()
    assert row is not None
    return int(row[0])


def forgotten_before(conn: Conn, table: str) -> datetime | None:
    row = conn.execute(FORGOTTEN_BEFORE, (table,)).fetchone()
    return None if row is None else row[0]


def children(conn: Conn, table: str) -> set[str]:
    found = conn.execute(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = %s::regclass",
        (table,),
    )
    return {row[0] for row in found}


def where(conn: Conn, table: str, message_id: UUID) -> str | None:
    """The partition that holds the row."""
    query = f"SELECT tableoid::regclass::text FROM {table} WHERE message_id = %s"
    row = conn.execute(query.encode(), (message_id,)).fetchone()
    return None if row is None else str(row[0])


def partition(table: str, day: date) -> str:
    return f"{table}_p{day:%Y%m%d}"


def add_past_day(conn: Conn, table: str, day: date) -> None:
    """What was made that day, as the function names and bounds it."""
    conn.execute(
        f"CREATE TABLE {partition(table, day)} PARTITION OF {table} FOR VALUES FROM ('{first_of(day)}') "
        f"TO ('{first_of(day + timedelta(days=1))}')".encode()
    )


def first_of(day: date) -> UUID:
    return first_at(datetime(day.year, day.month, day.day, tzinfo=UTC))


def test_applying_the_schema_made_yesterday_to_a_week_ahead(conn: Conn, table: str) -> None:
    today = day_of(conn)
    days = [today + timedelta(days=n) for n in range(-1, 8)]
    assert children(conn, table) == {partition(table, day) for day in days} | {f"{table}_default"}


def test_making_again_makes_only_what_is_missing(conn: Conn, table: str) -> None:
    assert make(conn, table) == 0
    assert make(conn, table, days_ahead=9) == 2


def test_a_row_lies_in_the_partition_of_its_ids_day(conn: Conn, table: str) -> None:
    today = day_of(conn)
    for day in (today - timedelta(days=1), today, today + timedelta(days=7)):
        conn.execute(INSERT[table], (id_of(day),))
        assert where(conn, table, id_of(day)) == partition(table, day)


def test_the_databases_day_bound_is_the_one_python_computes(conn: Conn, table: str) -> None:
    for day in (date(1970, 1, 1), date(2024, 2, 29), date(2026, 11, 23), date(9999, 12, 31)):
        row = conn.execute("SELECT outhaul_first_id(%s)", (day,)).fetchone()
        assert row == (first_of(day),)


def test_a_day_before_the_epoch_has_the_smallest_bound(conn: Conn, table: str) -> None:
    """Else its hexadecimal wraps round to the largest, and 'older than' means everything."""
    assert conn.execute("SELECT outhaul_first_id('1969-12-31')").fetchone() == (UUID(int=0),)


def test_a_row_of_a_missing_day_goes_to_the_default_partition(conn: Conn, table: str) -> None:
    far = day_of(conn) + timedelta(days=30)
    conn.execute(INSERT[table], (id_of(far),))
    assert where(conn, table, id_of(far)) == f"{table}_default"


def test_a_day_whose_rows_lie_in_the_default_is_left_there_and_the_others_are_made(conn: Conn, table: str) -> None:
    today = day_of(conn)
    held = today + timedelta(days=9)
    conn.execute(INSERT[table], (id_of(held),))
    assert make(conn, table, days_ahead=10) == 2
    assert where(conn, table, id_of(held)) == f"{table}_default"
    assert partition(table, held) not in children(conn, table)
    assert partition(table, today + timedelta(days=10)) in children(conn, table)


def test_the_same_id_is_refused_twice_whichever_partition_it_lies_in(conn: Conn, table: str) -> None:
    for day in (day_of(conn), day_of(conn) + timedelta(days=30)):
        conn.execute(INSERT[table], (id_of(day),))
        with pytest.raises(psycopg.errors.UniqueViolation), conn.transaction():
            conn.execute(INSERT[table], (id_of(day),))


def test_dropping_removes_whole_days_before_the_kept_ones(conn: Conn, table: str) -> None:
    today = day_of(conn)
    days = [today - timedelta(days=n) for n in (4, 3, 2)]
    for day in days:
        add_past_day(conn, table, day)
        conn.execute(INSERT[table], (id_of(day),))
    assert drop(conn, table, keep_days=3) == 1
    assert [where(conn, table, id_of(day)) for day in days] == [
        None,
        partition(table, days[1]),
        partition(table, days[2]),
    ]
    assert drop(conn, table, keep_days=3) == 0


def test_dropping_clears_old_rows_out_of_the_default_too(conn: Conn, table: str) -> None:
    today = day_of(conn)
    old, kept = today - timedelta(days=31), today - timedelta(days=30)
    for day in (old, kept):
        conn.execute(INSERT[table], (id_of(day),))
    drop(conn, table, keep_days=30)
    assert where(conn, table, id_of(old)) is None
    assert where(conn, table, id_of(kept)) == f"{table}_default"


def test_nothing_was_forgotten_before_anything_was_dropped(conn: Conn, table: str) -> None:
    assert forgotten_before(conn, table) is None


def test_dropping_remembers_up_to_when_and_never_takes_it_back(conn: Conn, table: str) -> None:
    today = day_of(conn)
    midnight = datetime(today.year, today.month, today.day, tzinfo=UTC)
    drop(conn, table, keep_days=10)
    assert forgotten_before(conn, table) == midnight - timedelta(days=10)
    drop(conn, table, keep_days=20)
    assert forgotten_before(conn, table) == midnight - timedelta(days=10)
    drop(conn, table, keep_days=5)
    assert forgotten_before(conn, table) == midnight - timedelta(days=5)


def test_a_retention_of_a_century_drops_nothing(conn: Conn, table: str) -> None:
    """It reaches back before the epoch, where an unguarded bound would wrap round and clear the default."""
    far = day_of(conn) + timedelta(days=30)
    conn.execute(INSERT[table], (id_of(far),))
    assert drop(conn, table, keep_days=36_500) == 0
    assert where(conn, table, id_of(far)) == f"{table}_default"
    assert forgotten_before(conn, table) is not None


@pytest.mark.parametrize("keep_days", [0, -1, 36_501, 2_000_000_000])
def test_a_senseless_retention_is_refused(conn: Conn, table: str, keep_days: int) -> None:
    with pytest.raises(psycopg.errors.RaiseException, match="keep_days"), conn.transaction():
        drop(conn, table, keep_days)


@pytest.mark.parametrize("days_ahead", [-1, 367])
def test_a_senseless_number_of_days_ahead_is_refused(conn: Conn, table: str, days_ahead: int) -> None:
    with pytest.raises(psycopg.errors.RaiseException, match="days_ahead"), conn.transaction():
        make(conn, table, days_ahead)


@pytest.mark.parametrize("function", [MAKE_PARTITIONS, DROP_PARTITIONS])
def test_another_table_is_refused(conn: Conn, function: Any) -> None:
    with pytest.raises(psycopg.errors.RaiseException, match="no partitioned table of Outhaul"), conn.transaction():
        conn.execute(function, ("runs", 7))


def test_a_table_that_is_held_is_given_up_on_within_the_lock_timeout(alone: Conn, outbox_dsn: str) -> None:
    """Making waits for the default partition, and everything else would queue up behind that wait."""
    with psycopg.connect(outbox_dsn) as reader, reader.transaction():
        reader.execute(b"SELECT FROM outbox_sent_default")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            make(alone, "outbox_sent", days_ahead=8)
    assert make(alone, "outbox_sent", days_ahead=8) == 1


def test_making_partitions_does_not_hold_up_the_marking(alone: Conn, outbox_dsn: str) -> None:
    [message_id] = record(outbox_dsn)
    with psycopg.connect(outbox_dsn) as maker:
        assert make(maker, "outbox_sent", days_ahead=20) == 13
        alone.execute("SET statement_timeout = '5s'")
        assert alone.execute(CONFIRM, ([message_id],)).rowcount == 1
    assert partition("outbox_sent", day_of(alone) + timedelta(days=20)) in children(alone, "outbox_sent")


@pytest.mark.parametrize("table", ["outbox_sent"])
def test_the_lock_timeout_does_not_stay_with_the_session(conn: Conn, table: str) -> None:
    make(conn, table)
    assert conn.execute("SHOW lock_timeout").fetchone() == ("0",)


@pytest.mark.parametrize("table", ["outbox_sent"])
def test_the_functions_are_nobodys_but_the_owners_until_granted(conn: Conn, table: str) -> None:
    rows = conn.execute(
        "SELECT proname, has_function_privilege('public', oid, 'EXECUTE') FROM pg_proc "
        "WHERE proname LIKE 'outhaul%partitions'"
    )
    assert dict(rows.fetchall()) == {"outhaul_make_partitions": False, "outhaul_drop_partitions": False}


@pytest.mark.parametrize("table", ["outbox_sent"])
def test_a_callers_temporary_table_is_not_taken_for_the_real_one(conn: Conn, table: str, least_role: str) -> None:
    """The functions run with their owner's rights: a table slipped under them would run its triggers with those."""
    conn.execute(b"GRANT EXECUTE ON FUNCTION outhaul_drop_partitions(text, integer) TO " + least_role.encode())
    conn.execute(f"SET ROLE {least_role}".encode())
    conn.execute(b"CREATE TEMP TABLE retention (table_name text PRIMARY KEY, forgotten_before timestamptz)")
    drop(conn, table, keep_days=5)
    assert conn.execute("SELECT count(*) FROM pg_temp.retention").fetchone() == (0,)
    conn.execute(b"RESET ROLE")
    assert conn.execute("SELECT count(*) FROM public.retention").fetchone() == (1,)


@pytest.fixture
def least_role(conn: Conn) -> Any:
    """A role without any right but to connect."""
    name = f"test_{id(conn):x}"
    conn.execute(f"CREATE ROLE {name}".encode())
    yield name
    conn.execute(f"RESET ROLE; DROP OWNED BY {name}; DROP ROLE {name}".encode())


def test_two_makers_at_once_share_the_work(outbox_dsn: str) -> None:
    """One waits for the other's lock and then finds the work done."""

    def one(_n: int) -> int:
        with psycopg.connect(outbox_dsn, autocommit=True) as own:
            return make(own, "outbox_sent", days_ahead=12)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(one, range(4))) == 5
