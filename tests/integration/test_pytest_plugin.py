"""The plugin as users meet it: in a pytest of their own, with their own database and no broker."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from outbox_support import OUTBOX, created, emptied, in_loop, query, shared_database
from outhaul import Consumer, Reject, Retry, events
from outhaul.errors import ConfigurationError
from outhaul.sqlalchemy import add, add_async
from outhaul.testing import Harness, NotHandled

pytest_plugins = ["pytester"]
DOCS = Path(__file__).parents[2] / "docs" / "testing-your-code.md"
Conn = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def database(postgres_url: str) -> Iterator[str]:
    with shared_database(postgres_url, "outbox", "inbox") as dsn:
        query(dsn, "CREATE TABLE effects (n bigint)")
        yield dsn


@pytest.fixture
def dsn(database: str) -> str:
    query(database, "TRUNCATE inbox, deliveries, effects")
    return emptied(database)


@pytest.fixture
def conn(dsn: str) -> Iterator[Conn]:
    with psycopg.connect(dsn) as conn:
        yield conn
        conn.rollback()


def effects(target: str | Conn) -> list[int]:
    if isinstance(target, str):
        return [row[0] for row in query(target, "SELECT n FROM effects ORDER BY n")]
    return [row[0] for row in target.execute("SELECT n FROM effects ORDER BY n")]


def shipping(dsn: str | None = None, **options: Any) -> Consumer:
    consumer = Consumer("shipping", queue="shop.waybill", dsn=dsn, **options)

    @consumer.handler("shop.order.created.v1")
    def effect(message: events.Event, tx: Conn) -> None:
        if message.data["n"] == 13:
            raise ValueError("thirteen")
        if message.data["n"] == 14:
            raise Reject("fourteen")
        tx.execute("INSERT INTO effects VALUES (%s)", (message.data["n"],))

    return consumer


def async_shipping(dsn: str | None = None) -> Consumer:
    consumer = Consumer("shipping", queue="shop.waybill", dsn=dsn)

    @consumer.handler("shop.order.created.v1")
    async def effect(message: events.Event, tx: psycopg.AsyncConnection[Any]) -> None:
        await tx.execute("INSERT INTO effects VALUES (%s)", (message.data["n"],))

    return consumer


def test_pending_shows_what_the_open_transaction_recorded(conn: Conn, outhaul: Harness) -> None:
    [recorded] = OUTBOX.add(conn, created(7, headers={"k": 1}, causation_id="c", traceparent="t"))
    [message] = outhaul.pending(conn)
    assert (message.id, message.seq, message.created_at) == tuple(recorded)
    assert (message.type, message.exchange, message.routing_key, message.aggregate_id) == (
        "shop.order.created.v1",
        "shop.events",
        "order.created",
        "order-7",
    )
    assert (message.data, message.headers, message.causation_id, message.traceparent) == ({"n": 7}, {"k": 1}, "c", "t")
    event = events.decode(message.body)
    assert (event.id, event.sequence, event.data) == (message.id, message.seq, {"n": 7})


def test_pending_filters_and_keeps_the_order(conn: Conn, outhaul: Harness) -> None:
    OUTBOX.add(conn, created(1), created(2, routing_key="other"), created(3, exchange="e"), created(4, type="t.v1"))
    assert [m.data["n"] for m in outhaul.pending(conn)] == [1, 2, 3, 4]
    assert [m.data["n"] for m in outhaul.pending(conn, type="shop.order.created.v1", routing_key="other")] == [2]
    assert [m.data["n"] for m in outhaul.pending(conn, exchange="e")] == [3]
    assert [m.data["n"] for m in outhaul.pending(conn, aggregate_id="order-4")] == [4]
    assert outhaul.pending(conn, aggregate_id="order-5") == []


def test_pending_leaves_the_transaction_as_it_was(conn: Conn, dsn: str, outhaul: Harness) -> None:
    idle = psycopg.pq.TransactionStatus.IDLE
    outhaul.pending(conn)
    assert conn.info.transaction_status == idle
    OUTBOX.add(conn, created(1))
    outhaul.pending(conn)
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as other:
        assert outhaul.pending(other) == []
        assert other.info.transaction_status == idle


@in_loop
async def test_pending_has_an_async_twin(dsn: str, outhaul: Harness) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        await OUTBOX.add_async(conn, created(1), created(2, routing_key="other"))
        [message] = await outhaul.pending_async(conn, routing_key="other")
        assert message.data == {"n": 2}
        await conn.rollback()
        assert await outhaul.pending_async(conn) == []
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_pending_takes_a_sqlalchemy_session_or_connection(dsn: str, outhaul: Harness) -> None:
    engine = sa.create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))
    with Session(engine) as session:
        add(session, OUTBOX, created(1, headers={"k": True}, data=b"\x00", content_type="application/octet-stream"))
        [message] = outhaul.pending(session)
    with engine.connect() as conn:
        add(conn, OUTBOX, created(2))
        assert [m.data for m in outhaul.pending(conn)] == [{"n": 2}]
    engine.dispose()
    assert (message.data, message.headers) == (b"\x00", {"k": True})


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@in_loop
async def test_pending_takes_an_async_sqlalchemy_session_of_either_driver(
    dsn: str, driver: str, outhaul: Harness
) -> None:
    engine = create_async_engine(dsn.replace("postgresql://", f"postgresql+{driver}://"))
    async with AsyncSession(engine) as session:
        [recorded] = await add_async(session, OUTBOX, created(1, headers={"k": True}))
        [message] = await outhaul.pending_async(session)
    await engine.dispose()
    assert (message.id, message.headers, message.data) == (recorded.message_id, {"k": True}, {"n": 1})
    assert events.decode(message.body).id == recorded.message_id


@in_loop
async def test_the_wrong_kind_of_connection_is_told_the_right_method(dsn: str, outhaul: Harness) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        wrong: Any = conn
        with pytest.raises(TypeError, match="pending_async"):
            outhaul.pending(wrong)
    with psycopg.connect(dsn) as sync:
        wrong = sync
        with pytest.raises(TypeError, match=r"use outhaul\.pending\(\)"):
            await outhaul.pending_async(wrong)


def test_a_message_takes_effect_once_however_often_it_is_delivered(conn: Conn, outhaul: Harness) -> None:
    OUTBOX.add(conn, created(1))
    [message] = outhaul.pending(conn)
    deliveries = outhaul.deliver(shipping(), message, times=3, conn=conn)
    assert deliveries.results == ["handled", "duplicate", "duplicate"]
    assert [str(delivered) for delivered in deliveries[:2]] == ["handled", "duplicate"]
    assert outhaul.deliver(shipping(), message, conn=conn).result == "duplicate"
    assert effects(conn) == [1]


def test_everything_stays_in_the_transaction_of_the_connection_that_is_given(
    conn: Conn, dsn: str, outhaul: Harness
) -> None:
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    outhaul.deliver(shipping(), created(1), conn=conn)
    assert effects(conn) == [1]
    conn.rollback()
    assert effects(dsn) == []
    assert query(dsn, "SELECT count(*) FROM inbox") == [(0,)]


def test_without_a_connection_the_consumers_own_database_is_used_and_committed_to(
    dsn: str, conn: Conn, outhaul: Harness
) -> None:
    OUTBOX.add(conn, created(1))
    [message] = outhaul.pending(conn)
    assert outhaul.deliver(shipping(dsn), message, times=2).results == ["handled", "duplicate"]
    assert effects(dsn) == [1]


def test_a_consumer_without_a_database_wants_a_connection(outhaul: Harness) -> None:
    with pytest.raises(ConfigurationError, match="conn"):
        outhaul.deliver(shipping(), created(1))


def test_a_message_nobody_recorded_is_another_one_each_time(conn: Conn, outhaul: Harness) -> None:
    consumer, message = shipping(), created(1)
    assert outhaul.deliver(consumer, message, times=2, conn=conn).results == ["handled", "duplicate"]
    assert outhaul.deliver(consumer, message, conn=conn).result == "handled"
    assert effects(conn) == [1, 1]


def test_a_failing_handler_fails_the_test_and_is_its_cause(conn: Conn, outhaul: Harness) -> None:
    with pytest.raises(NotHandled, match=r"retried.*thirteen.*check=False") as caught:
        outhaul.deliver(shipping(), created(13), conn=conn)
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.deliveries.results == ["retried"]
    assert isinstance(caught.value, AssertionError)


def test_attempts_count_up_until_they_are_exhausted(conn: Conn, outhaul: Harness) -> None:
    consumer = shipping(retry=Retry(delays=(5, 0.25), max_attempts=3))
    deliveries = outhaul.deliver(consumer, created(13), conn=conn, times=9, check=False)
    assert deliveries.results == ["retried", "retried", "dead-lettered"]
    assert [delivered.delay_seconds for delivered in deliveries] == [5.0, 0.25, None]
    assert deliveries.reason == "exhausted"
    assert "thirteen" in deliveries[-1].detail
    assert deliveries[-1].headers["x-outhaul-failed"] == 3
    assert isinstance(deliveries.error, ValueError)


def test_a_rejected_message_has_its_reason(conn: Conn, outhaul: Harness) -> None:
    deliveries = outhaul.deliver(shipping(), created(14), conn=conn, times=2, check=False)
    assert deliveries.results == ["dead-lettered"]
    assert (deliveries.reason, deliveries.delay_seconds) == ("rejected", None)
    assert "fourteen" in str(deliveries[0])


@pytest.mark.parametrize(
    ("message", "reason"),
    [(b"not json", "malformed"), (b"{}", "not-a-cloudevent"), (created(1, type="other.v1"), "unknown-type")],
)
def test_a_message_that_can_never_be_handled_has_its_reason(
    conn: Conn, outhaul: Harness, message: Any, reason: str
) -> None:
    with pytest.raises(NotHandled, match=reason):
        outhaul.deliver(shipping(), message, conn=conn)
    assert outhaul.deliver(shipping(), message, conn=conn, check=False).reason == reason


def test_a_message_that_crashed_its_consumer_too_often_is_given_up(conn: Conn, outhaul: Harness) -> None:
    consumer = shipping(max_crashes=1)
    OUTBOX.add(conn, created(1))
    [message] = outhaul.pending(conn)
    conn.execute("INSERT INTO deliveries (consumer, message_id, started) VALUES ('shipping', %s, 1)", (message.id,))
    deliveries = outhaul.deliver(consumer, message, conn=conn, redelivered=True, check=False)
    assert deliveries.reason == "crashed"
    assert effects(conn) == []


@in_loop
async def test_an_async_consumer_is_delivered_to_alike(dsn: str, outhaul: Harness) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        deliveries = await outhaul.deliver_async(async_shipping(), created(1), times=2, conn=conn)
        assert deliveries.results == ["handled", "duplicate"]
        await conn.rollback()
    assert effects(dsn) == []
    assert (await outhaul.deliver_async(async_shipping(dsn), created(2))).result == "handled"
    with pytest.raises(NotHandled):
        await outhaul.deliver_async(async_shipping(dsn), b"")
    assert effects(dsn) == [2]


@in_loop
async def test_sync_and_async_consumers_are_not_mistaken_for_each_other(dsn: str, outhaul: Harness) -> None:
    with pytest.raises(TypeError, match="deliver_async"):
        outhaul.deliver(async_shipping(dsn), created(1))
    with pytest.raises(TypeError, match=r"use outhaul\.deliver\("):
        await outhaul.deliver_async(shipping(dsn), created(1))


def test_no_delivery_is_refused(conn: Conn, outhaul: Harness) -> None:
    with pytest.raises(ConfigurationError, match="times"):
        outhaul.deliver(shipping(), created(1), conn=conn, times=0)


def test_what_is_no_messages_fault_is_raised(conn: Conn, outhaul: Harness) -> None:
    conn.execute("DROP TABLE inbox CASCADE")
    with pytest.raises(psycopg.errors.UndefinedTable):
        outhaul.deliver(shipping(), created(1), conn=conn)


def test_the_plugin_loads_nothing_but_pytest_when_pytest_starts() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import outhaul.pytest_plugin; "
        "print(sorted(name for name in set(sys.modules) - before if not name.startswith('outhaul')))"
        "; print(sorted(name for name in set(sys.modules) - before if name.startswith('outhaul')))"
    )
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert answer.stdout.splitlines() == ["[]", "['outhaul', 'outhaul.pytest_plugin']"]


def test_the_fixture_is_there_by_itself_and_says_what_it_is(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--fixtures")
    result.stdout.fnmatch_lines(["outhaul -- *", "*Look at recorded messages*"])


def test_the_documented_example_runs_as_it_stands(
    pytester: pytest.Pytester, make_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert {name for name, _ in blocks} == {"shop.py", "conftest.py", "test_shop.py"}
    for name, text in blocks:
        pytester.path.joinpath(name).write_text(text)
    monkeypatch.setenv("SHOP_TEST_DSN", make_database(()))
    monkeypatch.setenv("PYTHONPATH", str(pytester.path))
    result = pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=4)
