"""The outbox in SQLAlchemy's transactions: any driver, session or connection; wakes a sender after the commit only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from outbox_support import OUTBOX, created, emptied, in_loop, query, record, shared_database
from outhaul import Outbox
from outhaul.context import caused_by
from outhaul.errors import TransactionRequired
from outhaul.sqlalchemy import add, add_async, wake_after_commit

SYNC = ["psycopg"]
ASYNC = ["psycopg", "asyncpg"]
COLUMNS = (
    "exchange, routing_key, type, source, aggregate_id, payload, content_type, headers, causation_id, traceparent, "
    "lease_token, attempts, status, available_at <= clock_timestamp()"
)


@pytest.fixture(scope="module")
def database(postgres_url: str) -> Iterator[str]:
    with shared_database(postgres_url, "outbox") as dsn:
        yield dsn


@pytest.fixture
def dsn(database: str) -> str:
    return emptied(database)


class Aborted(Exception):
    """The caller's own trouble."""


class Wakes:
    """A sender's ear."""

    def __init__(self) -> None:
        self.heard = 0

    def wake(self) -> None:
        self.heard += 1


def url_for(dsn: str, driver: str) -> str:
    return urlunsplit(urlsplit(dsn)._replace(scheme=f"postgresql+{driver}"))


@contextmanager
def engine_of(dsn: str, driver: str = "psycopg", **options: Any) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url_for(dsn, driver), poolclass=NullPool, **options)
    yield engine
    engine.dispose()


@asynccontextmanager
async def async_engine_of(dsn: str, driver: str, **options: Any) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url_for(dsn, driver), poolclass=NullPool, **options)
    yield engine
    await engine.dispose()


def aggregates(dsn: str) -> list[str]:
    return [row[0] for row in query(dsn, "SELECT aggregate_id FROM outbox ORDER BY seq")]


FULL = created(
    1,
    exchange="other.events",
    data=b"\x00\xff",
    content_type="application/octet-stream",
    headers={"tenant": "north\u2603", "n": 3, "urgent": True},
    causation_id="cause-1",
    traceparent="00-trace",
)


def written_by_psycopg(dsn: str) -> Any:
    """The same two messages, as the plain driver writes them."""
    record(dsn)
    with psycopg.connect(dsn) as conn:
        OUTBOX.add(conn, FULL)
    rows = query(dsn, f"SELECT {COLUMNS} FROM outbox ORDER BY seq")
    emptied(dsn)
    return rows


@pytest.mark.parametrize("driver", SYNC)
@pytest.mark.parametrize("kind", [Session, sa.Connection])
def test_a_session_or_connection_writes_what_the_plain_driver_writes(dsn: str, driver: str, kind: Any) -> None:
    expected = written_by_psycopg(dsn)
    with engine_of(dsn, driver) as engine, kind(engine) if kind is Session else engine.connect() as target:
        recorded = add(target, OUTBOX, created(0), FULL)
        assert aggregates(dsn) == []
        target.commit()
    assert query(dsn, f"SELECT {COLUMNS} FROM outbox ORDER BY seq") == expected
    assert query(dsn, "SELECT message_id, seq, created_at FROM outbox ORDER BY seq") == [tuple(r) for r in recorded]


@pytest.mark.parametrize("driver", ASYNC)
@pytest.mark.parametrize("kind", ["session", "connection"])
@in_loop
async def test_an_async_session_or_connection_writes_the_same(dsn: str, driver: str, kind: str) -> None:
    expected = written_by_psycopg(dsn)
    async with (
        async_engine_of(dsn, driver) as engine,
        AsyncSession(engine) if kind == "session" else engine.connect() as target,
    ):
        recorded = await add_async(target, OUTBOX, created(0), FULL)
        assert aggregates(dsn) == []
        await target.commit()
    assert query(dsn, f"SELECT {COLUMNS} FROM outbox ORDER BY seq") == expected
    assert query(dsn, "SELECT message_id, seq, created_at FROM outbox ORDER BY seq") == [tuple(r) for r in recorded]


def test_many_messages_keep_their_order(dsn: str) -> None:
    with engine_of(dsn) as engine, Session(engine) as session:
        recorded = add(session, OUTBOX, *(created(n) for n in range(50)))
        assert add(session, OUTBOX) == []
        session.commit()
    assert [r.seq for r in recorded] == sorted(r.seq for r in recorded)
    assert aggregates(dsn) == [f"order-{n}" for n in range(50)]


@pytest.mark.parametrize("driver", SYNC)
def test_a_rollback_leaves_nothing_and_a_savepoint_takes_its_own_along(dsn: str, driver: str) -> None:
    with engine_of(dsn, driver) as engine:
        with suppress(Aborted), Session(engine) as session, session.begin():
            add(session, OUTBOX, created(1))
            raise Aborted
        with Session(engine) as session, session.begin():
            add(session, OUTBOX, created(2))
            with suppress(Aborted), session.begin_nested():
                add(session, OUTBOX, created(3))
                raise Aborted
            add(session, OUTBOX, created(4))
    assert aggregates(dsn) == ["order-2", "order-4"]


@pytest.mark.parametrize("driver", ASYNC)
@in_loop
async def test_an_async_rollback_leaves_nothing(dsn: str, driver: str) -> None:
    async with async_engine_of(dsn, driver) as engine:
        with suppress(Aborted):
            async with AsyncSession(engine) as session, session.begin():
                await add_async(session, OUTBOX, created(1))
                raise Aborted
    assert aggregates(dsn) == []


@pytest.mark.parametrize("driver", SYNC)
def test_autocommit_is_refused(dsn: str, driver: str) -> None:
    with engine_of(dsn, driver, isolation_level="AUTOCOMMIT") as engine:
        with Session(engine) as session, pytest.raises(TransactionRequired, match="AUTOCOMMIT"):
            add(session, OUTBOX, created())
        with engine.connect() as conn, pytest.raises(TransactionRequired):
            add(conn, OUTBOX, created())
    with engine_of(dsn, driver) as engine, engine.connect() as conn:
        conn.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(TransactionRequired):
            add(conn, OUTBOX, created())
    assert aggregates(dsn) == []


@pytest.mark.parametrize("driver", ASYNC)
@in_loop
async def test_autocommit_is_refused_by_the_async_drivers_too(dsn: str, driver: str) -> None:
    async with async_engine_of(dsn, driver, isolation_level="AUTOCOMMIT") as engine:
        async with AsyncSession(engine) as session:
            with pytest.raises(TransactionRequired, match="AUTOCOMMIT"):
                await add_async(session, OUTBOX, created())
        async with engine.connect() as conn:
            with pytest.raises(TransactionRequired):
                await add_async(conn, OUTBOX, created())
    assert aggregates(dsn) == []


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_stricter_isolation_is_welcome(dsn: str, level: Any) -> None:
    with engine_of(dsn, isolation_level=level) as engine, Session(engine) as session:
        add(session, OUTBOX, created())
        session.commit()
    assert aggregates(dsn) == ["order-1"]


def test_a_scoped_session_is_a_session(dsn: str) -> None:
    with engine_of(dsn) as engine:
        registry = scoped_session(sessionmaker(engine))
        wakes = Wakes()
        wake_after_commit(registry, wakes)
        add(registry, OUTBOX, created())
        registry.commit()
        registry.remove()
    assert aggregates(dsn) == ["order-1"]
    assert wakes.heard == 1


@in_loop
async def test_an_async_scoped_session_is_a_session(dsn: str) -> None:
    async with async_engine_of(dsn, "psycopg") as engine:
        registry = async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: 1)
        wakes = Wakes()
        wake_after_commit(registry, wakes)
        await add_async(registry, OUTBOX, created())
        await registry.commit()
        await registry.remove()
    assert aggregates(dsn) == ["order-1"]
    assert wakes.heard == 1


def test_what_a_handler_records_names_its_cause(dsn: str) -> None:
    with engine_of(dsn) as engine, Session(engine) as session:
        with caused_by("0190-cause", "00-trace"):
            add(session, OUTBOX, created(1), created(2, causation_id="own"))
        add(session, OUTBOX, created(3))
        session.commit()
    assert query(dsn, "SELECT causation_id, traceparent FROM outbox ORDER BY seq") == [
        ("0190-cause", "00-trace"),
        ("own", "00-trace"),
        (None, None),
    ]


def test_the_outboxs_own_source_and_exchange_are_used(dsn: str) -> None:
    with engine_of(dsn) as engine, Session(engine) as session:
        add(session, Outbox(exchange="e", source="/shop"), created())
        session.commit()
    assert query(dsn, "SELECT exchange, source FROM outbox") == [("e", "/shop")]


def test_a_sender_is_woken_once_after_the_commit_and_not_for_the_next_one(dsn: str) -> None:
    with engine_of(dsn) as engine, Session(engine) as session:
        wakes = Wakes()
        add(session, OUTBOX, created(1))
        wake_after_commit(session, wakes)
        wake_after_commit(session, wakes)
        assert wakes.heard == 0
        session.commit()
        assert wakes.heard == 1
        add(session, OUTBOX, created(2))
        session.commit()
        assert wakes.heard == 1
        wake_after_commit(session, wakes)
        add(session, OUTBOX, created(3))
        session.commit()
        assert wakes.heard == 2


def test_a_sender_is_woken_by_the_real_commit_not_by_a_savepoints(dsn: str) -> None:
    with engine_of(dsn) as engine, Session(engine) as session:
        wakes = Wakes()
        wake_after_commit(session, wakes)
        with session.begin_nested():
            add(session, OUTBOX, created(1))
        assert wakes.heard == 0
        with suppress(Aborted), session.begin_nested():
            add(session, OUTBOX, created(2))
            raise Aborted
        session.commit()
        assert wakes.heard == 1


def test_a_sender_is_not_woken_by_a_rollback_nor_by_what_comes_after_it(dsn: str) -> None:
    with engine_of(dsn) as engine, Session(engine) as session:
        wakes = Wakes()
        wake_after_commit(session, wakes)
        add(session, OUTBOX, created(1))
        session.rollback()
        add(session, OUTBOX, created(2))
        session.commit()
        assert wakes.heard == 0


def test_two_senders_are_both_woken(dsn: str) -> None:
    with engine_of(dsn) as engine, Session(engine) as session:
        one, other = Wakes(), Wakes()
        wake_after_commit(session, one)
        wake_after_commit(session, other)
        add(session, OUTBOX, created(1))
        session.commit()
        assert (one.heard, other.heard) == (1, 1)


@pytest.mark.parametrize("driver", ASYNC)
@in_loop
async def test_an_async_sessions_commit_wakes_the_sender(dsn: str, driver: str) -> None:
    async with async_engine_of(dsn, driver) as engine, AsyncSession(engine) as session:
        wakes = Wakes()
        wake_after_commit(session, wakes)
        await add_async(session, OUTBOX, created(1))
        await session.commit()
        await session.execute(sa.text("SELECT 1"))
        await session.commit()
        assert wakes.heard == 1
