"""Everything through a real pgbouncer in transaction mode: each statement may run on another server connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from outbox_support import OUTBOX, created, emptied, in_loop, query, record, shared_database
from outhaul import Consumer, Sender
from outhaul.broker_admin.topology_apply import apply
from outhaul.database import schema_apply
from outhaul.database.outbox_store import OutboxStore
from outhaul.database.partitions import MAKE_PARTITIONS
from outhaul.database.pooler import is_pooled, never_prepare_through_a_pooler, never_prepare_through_a_pooler_sync
from outhaul.events import Event
from outhaul.settings import DatabaseSettings
from outhaul.sqlalchemy import add
from outhaul.topology import consumer_topology
from support import BrokerUnderTest, apoll
from support_pgbouncer import SERVER_CONNECTIONS, pooled

pytestmark = pytest.mark.needs("pgbouncer")


@pytest.fixture(scope="module")
def direct_dsn(postgres_url: str) -> Iterator[str]:
    """The database itself."""
    with shared_database(postgres_url, "outbox", "inbox") as dsn:
        query(dsn, "CREATE TABLE effects (n bigint NOT NULL)")
        yield dsn


@pytest.fixture(scope="module")
def pooled_dsn(direct_dsn: str, servers_folder: Path) -> Iterator[str]:
    """The same database through a pgbouncer with a few server connections."""
    with pooled(direct_dsn, servers_folder) as dsn:
        yield dsn


@pytest.fixture
def dsn(pooled_dsn: str, direct_dsn: str) -> str:
    emptied(direct_dsn)
    return pooled_dsn


def opened(dsn: str, *, prepared_statements: bool = True) -> OutboxStore:
    return OutboxStore(DatabaseSettings.parse(dsn), prepared_statements=prepared_statements)


def backends(dsn: str, conn: psycopg.Connection[Any], statements: int) -> set[int]:
    """The server processes that answered one client's statements, with others in between."""
    seen = set()
    with ThreadPoolExecutor(SERVER_CONNECTIONS) as others:
        for _ in range(statements):
            busy = [others.submit(query, dsn, "SELECT 1") for _ in range(SERVER_CONNECTIONS)]
            row = conn.execute("SELECT pg_backend_pid()").fetchone()
            assert row is not None
            seen.add(row[0])
            for other in busy:
                other.result()
    return seen


def test_a_clients_statements_do_run_on_several_server_connections(dsn: str) -> None:
    """The premise of all that follows."""
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as conn:
        assert len(backends(dsn, conn, 30)) > 1


@in_loop
async def test_a_pooler_betrays_itself_and_a_server_does_not(dsn: str, direct_dsn: str) -> None:
    async with (
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as pooled,
        await psycopg.AsyncConnection.connect(direct_dsn, autocommit=True) as direct,
    ):
        assert await is_pooled(pooled)
        assert not await is_pooled(direct)
        await never_prepare_through_a_pooler(pooled)
        await never_prepare_through_a_pooler(direct)
        assert (pooled.prepare_threshold, direct.prepare_threshold) == (None, 5)


def test_it_betrays_itself_to_a_plain_connection_too(dsn: str, direct_dsn: str) -> None:
    with psycopg.connect(dsn) as pooled, psycopg.connect(direct_dsn) as direct:
        for conn in (pooled, direct):
            never_prepare_through_a_pooler_sync(conn)
            assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert (pooled.prepare_threshold, direct.prepare_threshold) == (None, 5)


@in_loop
async def test_looking_leaves_no_transaction_open(direct_dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(direct_dsn) as conn:
        await never_prepare_through_a_pooler(conn)
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_messages_are_recorded_and_rolled_back(dsn: str, direct_dsn: str) -> None:
    with psycopg.connect(dsn, prepare_threshold=None) as conn:
        for n in range(20):
            OUTBOX.add(conn, created(n))
            conn.commit()
            OUTBOX.add(conn, created(1000 + n))
            conn.rollback()
    assert query(direct_dsn, "SELECT aggregate_id FROM outbox ORDER BY seq") == [(f"order-{n}",) for n in range(20)]


@in_loop
async def test_messages_are_recorded_by_an_async_connection(dsn: str, direct_dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, prepare_threshold=None) as conn:
        for n in range(20):
            await OUTBOX.add_async(conn, created(n))
            await conn.commit()
    assert query(direct_dsn, "SELECT count(*) FROM outbox") == [(20,)]


def test_messages_are_recorded_by_a_sqlalchemy_session(dsn: str, direct_dsn: str) -> None:
    url = dsn.replace("postgresql://", "postgresql+psycopg://")
    engine = sa.create_engine(url, connect_args={"prepare_threshold": None})
    with Session(engine) as session:
        for n in range(20):
            add(session, OUTBOX, created(n))
            session.commit()
    engine.dispose()
    assert query(direct_dsn, "SELECT count(*) FROM outbox") == [(20,)]


@pytest.mark.parametrize("prepared_statements", [True, False])
@in_loop
async def test_senders_at_once_complete_every_row_once(dsn: str, direct_dsn: str, prepared_statements: bool) -> None:
    """Asked for or not, statements are not prepared here: another client's would be run under our name for it."""
    recorded = set(record(direct_dsn, 600))
    discarded: list[UUID] = []

    async def one(worker: int) -> None:
        async with opened(dsn, prepared_statements=prepared_statements) as store:
            while rows := await store.claim(7, 60):
                first, *rest = rows
                assert (
                    await store.fail(first, last_error="x", delay_seconds=600, max_attempts=1, reason="r") == "parked"
                )
                assert await store.release(rest[:1], delay_seconds=600, last_error="x") == len(rest[:1])
                assert await store.confirm(row.message_id for row in rest[1:]) == len(rest[1:])
                await store.count()
                await store.heartbeat(uuid4(), name=f"s{worker}", host="h", version="0", state="sending")
                if worker % 2:
                    assert await store.unpark([first.message_id]) == [first.message_id]
                    for row in await store.claim_ids([first.message_id], 60):  # unless another was quicker
                        assert await store.confirm([row.message_id]) == 1
                else:
                    run = f"run-{first.seq}"
                    gone = await store.discard([first.message_id], reason="r", actor="a", run_id=run)
                    discarded.extend(row.message_id for row in gone)

    async with asyncio.timeout(60):
        await asyncio.gather(*(one(worker) for worker in range(6)))
    sent = {row[0] for row in query(direct_dsn, "SELECT message_id FROM outbox_sent")}
    left = {row[0] for row in query(direct_dsn, "SELECT message_id FROM outbox")}
    assert sent | left | set(discarded) == recorded
    assert len(sent) + len(left) + len(discarded) == len(recorded)
    assert query(direct_dsn, "SELECT DISTINCT status FROM outbox") == [("pending",)]


def test_the_schema_is_applied_and_partitions_are_made(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as conn:
        conn.execute("DROP TABLE inbox, inbox_consumers, deliveries")
        conn.execute("DELETE FROM outhaul_schema WHERE component = 'inbox'")
        assert [step.component for step in schema_apply.apply(conn, "inbox")] == ["inbox"]
        assert schema_apply.apply(conn, "outbox") == []
        assert conn.execute(MAKE_PARTITIONS, ("outbox_sent", 9)).fetchone() == (2,)


@in_loop
async def test_messages_go_all_the_way_through_it(dsn: str, direct_dsn: str, broker: BrokerUnderTest) -> None:
    """Sender and consumer as they are, nothing told to either."""
    topology = consumer_topology("shop.waybill", [("shop.events", "order.created")])
    apply(topology, broker.amqp_url, broker.management_url)
    record(direct_dsn, 300)
    consumer = Consumer(
        "shipping", queue="shop.waybill", dsn=dsn, amqp_url=broker.amqp_url, prepared_statements=True, batch_size=7
    )

    @consumer.handler("shop.order.created.v1")
    def effect(message: Event, tx: psycopg.Connection[Any]) -> None:
        tx.execute("INSERT INTO effects VALUES (%s)", (message.data["n"],))

    async with Sender(OUTBOX, dsn=dsn, amqp_url=broker.amqp_url), consumer:
        await apoll(lambda: query(direct_dsn, "SELECT count(*) FROM effects") == [(300,)], seconds=30)
        await apoll(lambda: query(direct_dsn, "SELECT count(*) FROM outbox") == [(0,)], seconds=30)
    assert query(direct_dsn, "SELECT count(DISTINCT n) FROM effects") == [(300,)]
    assert query(direct_dsn, "SELECT count(*) FROM outbox_sent") == [(300,)]
