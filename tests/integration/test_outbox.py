"""The row is written in the caller's transaction, or not at all: through every way of saying it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row, namedtuple_row, scalar_row

from outbox_support import OUTBOX, created, emptied, in_loop, query, shared_database
from outhaul import Message, Outbox
from outhaul.context import caused_by
from outhaul.errors import TransactionRequired
from outhaul.ids import is_uuid7, time_of


@pytest.fixture(scope="module")
def database(postgres_url: str) -> Iterator[str]:
    with shared_database(postgres_url, "outbox") as dsn:
        query(dsn, "CREATE TABLE orders (order_id uuid PRIMARY KEY, total integer CHECK (total > 0))")
        yield dsn


@pytest.fixture
def dsn(database: str) -> str:
    query(database, "TRUNCATE orders")
    return emptied(database)


@dataclass(frozen=True)
class Lease:
    token: UUID
    lease_seconds: float


class Aborted(Exception):
    """The caller's own trouble."""


def aggregates(dsn: str) -> list[str]:
    return [row[0] for row in query(dsn, "SELECT aggregate_id FROM outbox ORDER BY seq")]


def test_a_message_is_there_once_the_caller_commits(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        [recorded] = OUTBOX.add(conn, created(7))
        assert aggregates(dsn) == []
    [row] = query(
        dsn,
        "SELECT message_id, seq, created_at, exchange, routing_key, type, source, aggregate_id, payload, content_type, "
        "headers, causation_id, traceparent, lease_token, attempts, status, available_at <= clock_timestamp() "
        "FROM outbox",
    )
    assert row == (
        *recorded,
        "shop.events",
        "order.created",
        "shop.order.created.v1",
        "shop.events",
        "order-7",
        b'{"n":7}',
        "application/json",
        {},
        None,
        None,
        None,
        0,
        "pending",
        True,
    )


def test_every_column_takes_what_the_message_says(dsn: str) -> None:
    message = created(
        1,
        exchange="other.events",
        data=b"\x00\xff",
        content_type="application/octet-stream",
        headers={"tenant": "north\u2603", "priority": 3, "urgent": True},
        causation_id="cause-1",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    with psycopg.connect(dsn) as conn:
        Outbox(exchange="shop.events", source="/shop").add(conn, message)
    assert query(
        dsn, "SELECT exchange, source, payload, content_type, headers, causation_id, traceparent FROM outbox"
    ) == [
        (
            "other.events",
            "/shop",
            b"\x00\xff",
            "application/octet-stream",
            {"tenant": "north\u2603", "priority": 3, "urgent": True},
            "cause-1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
    ]


def test_several_messages_keep_their_order_and_get_rising_sequences(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        recorded = OUTBOX.add(conn, *(created(n) for n in range(300)))
        recorded += OUTBOX.add(conn, *(created(n) for n in range(300, 350)))
    assert [row.seq for row in recorded] == sorted(row.seq for row in recorded)
    assert len({row.message_id for row in recorded}) == 350
    assert aggregates(dsn) == [f"order-{n}" for n in range(350)]
    assert query(dsn, "SELECT array_agg(message_id ORDER BY seq) FROM outbox") == [([r.message_id for r in recorded],)]


def test_ids_are_uuid7_of_the_databases_clock(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        recorded = OUTBOX.add(conn, *(created(n) for n in range(50)))
    for row in recorded:
        assert is_uuid7(row.message_id)
        assert abs(time_of(row.message_id) - row.created_at) < timedelta(milliseconds=100)


def test_no_message_is_no_statement(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        assert OUTBOX.add(conn) == []
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_a_rollback_leaves_nothing(dsn: str) -> None:
    with suppress(Aborted), psycopg.connect(dsn) as conn:
        OUTBOX.add(conn, created())
        raise Aborted
    assert aggregates(dsn) == []


def test_a_savepoint_rolled_back_takes_its_message_with_it(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        OUTBOX.add(conn, created(1))
        with suppress(Aborted), conn.transaction():
            OUTBOX.add(conn, created(2))
            raise Aborted
        OUTBOX.add(conn, created(3))
    assert aggregates(dsn) == ["order-1", "order-3"]


def test_an_autocommit_connection_outside_a_transaction_is_refused(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        with pytest.raises(TransactionRequired, match=r"conn\.transaction"):
            OUTBOX.add(conn, created())
        with conn.transaction():
            OUTBOX.add(conn, created(2))
    assert aggregates(dsn) == ["order-2"]


@pytest.mark.parametrize("row_factory", [dict_row, namedtuple_row, scalar_row])
def test_a_connections_own_row_factory_does_not_matter(dsn: str, row_factory: Any) -> None:
    with psycopg.connect(dsn, row_factory=row_factory) as conn:
        [recorded] = OUTBOX.add(conn, created())
    assert query(dsn, "SELECT message_id, seq, created_at FROM outbox") == [tuple(recorded)]


@pytest.mark.parametrize("cursor_factory", [psycopg.ClientCursor, psycopg.RawCursor])
def test_a_connections_own_cursor_class_does_not_matter(dsn: str, cursor_factory: Any) -> None:
    with psycopg.connect(dsn, cursor_factory=cursor_factory) as conn:
        [recorded] = OUTBOX.add(conn, created())
    assert query(dsn, "SELECT message_id FROM outbox") == [(recorded.message_id,)]


def test_a_pipeline_is_welcome(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn, conn.pipeline(), conn.transaction():
        conn.execute("INSERT INTO orders VALUES (%s, 1)", (uuid4(),))
        OUTBOX.add(conn, created())
    assert aggregates(dsn) == ["order-1"]


@in_loop
async def test_an_async_connection_records_alike(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, row_factory=dict_row) as conn:
        recorded = await OUTBOX.add_async(conn, created(1), created(2))
        assert await OUTBOX.add_async(conn) == []
    assert query(dsn, "SELECT message_id, seq, created_at FROM outbox ORDER BY seq") == [tuple(r) for r in recorded]


@in_loop
async def test_an_async_rollback_leaves_nothing(dsn: str) -> None:
    with suppress(Aborted):
        async with await psycopg.AsyncConnection.connect(dsn) as conn:
            await OUTBOX.add_async(conn, created())
            raise Aborted
    assert aggregates(dsn) == []


@in_loop
async def test_an_async_autocommit_connection_outside_a_transaction_is_refused(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        with pytest.raises(TransactionRequired):
            await OUTBOX.add_async(conn, created())
        async with conn.transaction():
            await OUTBOX.add_async(conn, created(2))
    assert aggregates(dsn) == ["order-2"]


@in_loop
async def test_the_wrong_kind_of_connection_is_refused_before_anything_is_sent(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        wrong: Any = conn
        with pytest.raises(TypeError, match="add_async"):
            OUTBOX.add(wrong, created())
    with psycopg.connect(dsn) as sync:
        wrong = sync
        with pytest.raises(TypeError, match=r"add\(\)"):
            await OUTBOX.add_async(wrong, created())
    assert aggregates(dsn) == []


def test_a_row_recorded_with_a_lease_is_the_holders(dsn: str) -> None:
    lease = Lease(uuid4(), 30.0)
    with psycopg.connect(dsn) as conn:
        OUTBOX.add(conn, created(1), created(2), lease=lease)
    assert (
        query(
            dsn,
            "SELECT lease_token, available_at BETWEEN clock_timestamp() + interval '20 s' "
            "AND clock_timestamp() + interval '30 s' FROM outbox",
        )
        == [(lease.token, True)] * 2
    )


def test_what_a_handler_records_names_its_cause(dsn: str) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with psycopg.connect(dsn) as conn:
        with caused_by("0190-cause", trace):
            OUTBOX.add(conn, created(1), created(2, causation_id="own"))
            statement, parameters = OUTBOX.statement(created(3))
            conn.execute(statement, parameters)
        OUTBOX.add(conn, created(4))
    assert query(dsn, "SELECT causation_id, traceparent FROM outbox ORDER BY seq") == [
        ("0190-cause", trace),
        ("own", trace),
        ("0190-cause", trace),
        (None, None),
    ]


def place(conn: psycopg.Connection[Any], order_id: UUID, total: int, message: Message, lease: Any = None) -> Any:
    """Order and message as one statement."""
    insert, parameters = OUTBOX.statement(message, when="EXISTS (SELECT FROM placed)", lease=lease)
    return conn.execute(
        b"WITH placed AS (INSERT INTO orders VALUES (%(order_id)s, %(total)s) ON CONFLICT DO NOTHING RETURNING 1), "
        b"message AS (" + insert.encode() + b") SELECT message_id, seq, created_at FROM message",
        parameters | {"order_id": order_id, "total": total},
    ).fetchone()


def test_a_message_composes_with_the_business_row_into_one_statement(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        order_id, lease = uuid4(), Lease(uuid4(), 10.0)
        recorded = place(conn, order_id, 5, created(1, headers={"k": "v"}), lease)
        assert query(dsn, "SELECT message_id, seq, created_at, headers, lease_token FROM outbox") == [
            (*recorded, {"k": "v"}, lease.token)
        ]
        assert place(conn, order_id, 5, created(2)) is None
    assert aggregates(dsn) == ["order-1"]


def test_a_business_row_that_is_refused_refuses_the_composed_message_too(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn, pytest.raises(psycopg.errors.CheckViolation):
        place(conn, uuid4(), -1, created())
    assert aggregates(dsn) == []


def test_the_payload_is_kept_byte_for_byte(dsn: str) -> None:
    data = {
        "text": '\u2028 \u2603 \U0001f600 "quoted" \\ \x7f',
        "n": 12345678901234567890,
        "nested": [[], {}, None, 1.5],
    }
    with psycopg.connect(dsn) as conn:
        OUTBOX.add(conn, created(1, data=data))
    [(payload,)] = query(dsn, "SELECT payload FROM outbox")
    assert json.loads(payload) == data


def test_a_large_payload_is_kept(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        OUTBOX.add(conn, created(1, data=b"\x00" * 5_000_000, content_type="application/octet-stream"))
    assert query(dsn, "SELECT length(payload) FROM outbox") == [(5_000_000,)]


def test_rows_of_two_transactions_may_commit_in_another_order_than_their_sequences(dsn: str) -> None:
    """Why nobody may claim by a cursor over sequences: the smaller one appears later."""
    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
        [early] = OUTBOX.add(first, created(1))
        [late] = OUTBOX.add(second, created(2))
        second.commit()
        assert query(dsn, "SELECT seq FROM outbox") == [(late.seq,)]
        first.commit()
    assert early.seq < late.seq


def test_a_hundred_thousand_ids_are_unique_uuid7_in_order_of_their_milliseconds(dsn: str) -> None:
    """RFC 9562: version 7 in the seventh byte, variant 10 in the ninth, milliseconds in the first six."""
    [(count, distinct, sevens, variants, in_order, early, late)] = query(
        dsn,
        """
        WITH made AS MATERIALIZED (
            SELECT n, clock_timestamp() AS before, uuid_send(outhaul_uuidv7()) AS id, clock_timestamp() AS after
            FROM generate_series(1, 100000) AS n
        ), parts AS (
            SELECT n, id, get_byte(id, 6) >> 4 AS version, get_byte(id, 8) >> 6 AS variant, substring(id FOR 6) AS ms,
                   ('x' || encode(substring(id FOR 6), 'hex'))::bit(48)::bigint AS milliseconds,
                   floor(extract(epoch FROM before) * 1000) AS least, floor(extract(epoch FROM after) * 1000) AS most
            FROM made
        )
        SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE version = 7), count(*) FILTER (WHERE variant = 2),
               bool_and(ms >= before_ms), count(*) FILTER (WHERE milliseconds < least),
               count(*) FILTER (WHERE milliseconds > most)
        FROM (SELECT *, lag(ms, 1, '\\x000000000000') OVER (ORDER BY n) AS before_ms FROM parts) AS ordered""",
    )
    assert (count, distinct, sevens, variants, in_order) == (100_000, 100_000, 100_000, 100_000, True)
    assert (early, late) == (0, 0)
