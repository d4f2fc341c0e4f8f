"""The inbox over a real database, without a broker."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from consuming import TYPE, Database, delivery, message_id, prepare
from outhaul import Consumer, Reject, Retry
from outhaul.consuming.delivery import Delivery, Outcome, Result
from outhaul.context import current_cause
from outhaul.database.inbox_queries import INSERT
from outhaul.deadletter import Reason
from outhaul.errors import ConfigurationError, InvalidMessage
from outhaul.events import Event
from support import poll

DONE, DUPLICATE, RETRIED, DEAD = Result.DONE, Result.DUPLICATE, Result.RETRIED, Result.DEAD_LETTERED


@pytest.fixture
def database(inbox_dsn: str) -> Database:
    return prepare(inbox_dsn)


@pytest.fixture
def conn(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with database.connect() as connection:
        yield connection


@pytest.fixture
def consumer() -> Consumer:
    return Consumer("shipping", queue="shop.waybill", retry=Retry(delays=(5, 30), max_attempts=3))


def note(message: Event, tx: psycopg.Connection[Any]) -> None:
    tx.execute("INSERT INTO effects (number) VALUES (%s)", (message.data["order"],))


def reject_odd(message: Event, tx: psycopg.Connection[Any]) -> None:
    note(message, tx)
    if message.data["order"] % 2:
        raise Reject("odd orders are not shipped")


def results(outcomes: list[Outcome]) -> list[Result]:
    return [outcome.result for outcome in outcomes]


def reasons(outcomes: list[Outcome]) -> list[str]:
    return [outcome.letter.reason if outcome.letter else "" for outcome in outcomes]


def test_a_message_takes_effect_once_however_often_it_comes(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    consumer.handler(TYPE)(note)
    message = delivery({"order": 7})
    assert results(consumer.process(conn, [message])) == [DONE]
    assert results(consumer.process(conn, [message, message])) == [DUPLICATE, DUPLICATE]
    assert results(consumer.process(conn, [message._replace(redelivered=True)])) == [DUPLICATE]
    assert database.effects() == [7]
    assert database.count("deliveries") == 0


def test_a_message_twice_in_one_batch_takes_effect_once(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    consumer.handler(TYPE)(note)
    message = delivery({"order": 7})
    assert sorted(r.value for r in results(consumer.process(conn, [message, message]))) == ["done", "duplicate"]
    assert database.effects() == [7]


def test_two_consumers_of_one_database_each_have_their_effect(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    other = Consumer("billing", queue="shop.bill")
    consumer.handler(TYPE)(note)
    other.handler(TYPE)(note)
    message = delivery({"order": 7})
    assert results(consumer.process(conn, [message]) + other.process(conn, [message])) == [DONE, DONE]
    assert database.effects() == [7, 7]


def test_the_same_id_with_another_payload_is_a_dead_letter(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    consumer.handler(TYPE)(note)
    first = delivery({"order": 7})
    other = delivery({"order": 8}, event_id=message_id(salt=99))
    impostor = other._replace(body=other.body.replace(b'"order": 8', b'"order": 9'))
    assert results(consumer.process(conn, [first, other])) == [DONE, DONE]
    outcomes = consumer.process(conn, [impostor])
    assert reasons(outcomes) == [Reason.COLLISION]
    assert reasons(consumer.process(conn, [impostor._replace(redelivered=True)])) == [Reason.COLLISION]
    fresh = delivery({"order": 10})
    twin = fresh._replace(body=fresh.body.replace(b'"order": 10', b'"order": 11'))
    assert sorted(r.value for r in results(consumer.process(conn, [fresh, twin]))) == ["dead_lettered", "done"]
    assert database.effects() == [7, 8, 10]


def test_one_bad_message_does_not_fail_its_neighbours(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    consumer.handler(TYPE)(reject_odd)
    outcomes = consumer.process(conn, [delivery({"order": number}) for number in range(10)])
    assert results(outcomes) == [DONE, DEAD] * 5
    assert database.effects() == [0, 2, 4, 6, 8]
    assert database.count("inbox") == 5
    assert database.count("deliveries") == 0


def test_a_batch_handler_that_fails_is_called_again_one_by_one(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    calls: list[int] = []

    @consumer.batch_handler(TYPE)
    def ship(messages: list[Event], tx: psycopg.Connection[Any]) -> None:
        calls.append(len(messages))
        for message in messages:
            note(message, tx)
            message.data["order"] = -1
        if any("bad" in message.data for message in messages):
            raise ValueError("bad")

    outcomes = consumer.process(
        conn, [delivery({"order": 1}), delivery({"order": 2, "bad": 1}), delivery({"order": 3})]
    )
    assert results(outcomes) == [DONE, RETRIED, DONE]
    assert calls == [3, 1, 1, 1]
    assert database.effects() == [1, 3]


def test_a_decoder_that_changes_its_mind_is_a_dead_letter_too(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    calls: list[int] = []

    def fickle(raw: Any) -> Any:
        calls.append(raw["order"])
        if calls.count(1) > 1:
            raise LookupError("no longer")
        return raw

    consumer.handler(TYPE, data=fickle)(reject_odd)
    assert reasons(consumer.process(conn, [delivery({"order": 1}), delivery({"order": 2})])) == ["invalid-data"] * 2
    assert database.effects() == []


def test_a_failure_waits_in_the_tier_of_its_count_and_ends_as_a_dead_letter(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    @consumer.handler(TYPE)
    def fail(message: Event, tx: psycopg.Connection[Any]) -> None:
        note(message, tx)
        raise ValueError("no courier\nanswers")

    message = delivery({"order": 1}, headers={"tenant": "a"})
    seen = []
    for _ in range(3):
        [outcome] = consumer.process(conn, [message])
        assert outcome.letter is not None
        seen.append((outcome.result, outcome.tier, outcome.letter.failed, outcome.letter.reason))
        message = message._replace(
            headers=outcome.letter.headers(message.headers), exchange="outhaul.retry", routing_key="shop.waybill"
        )
    assert seen == [
        (RETRIED, "shop.waybill.retry.5s", 1, ""),
        (RETRIED, "shop.waybill.retry.30s", 2, ""),
        (DEAD, "", 3, "exhausted"),
    ]
    assert message.headers["x-outhaul-error"] == "ValueError: no courier answers"
    assert message.headers["x-outhaul-exchange"] == "shop.events"
    assert message.headers["x-outhaul-routing-key"] == "order.created"
    assert message.headers["x-outhaul-consumer"] == "shipping"
    assert message.headers["x-outhaul-first-failed-at"] < message.headers["x-outhaul-last-failed-at"]
    assert message.headers["tenant"] == "a"
    assert database.effects() == []
    assert database.count("deliveries") == 0


def test_a_failed_message_that_succeeds_leaves_no_record(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    attempts = iter([ValueError("not yet"), None])

    @consumer.handler(TYPE)
    def second_time(message: Event, tx: psycopg.Connection[Any]) -> None:
        error = next(attempts)
        if error:
            raise error
        note(message, tx)

    message = delivery({"order": 1})
    [outcome] = consumer.process(conn, [message])
    assert outcome.letter is not None
    assert database.query("SELECT failed, started, last_error FROM deliveries") == [(1, 0, "ValueError: not yet")]
    again = message._replace(headers=outcome.letter.headers(message.headers))
    assert results(consumer.process(conn, [again])) == [DONE]
    assert database.count("deliveries") == 0


def test_a_reject_keeps_the_handlers_own_words(consumer: Consumer, conn: psycopg.Connection[Any]) -> None:
    consumer.handler(TYPE)(reject_odd)
    [outcome] = consumer.process(conn, [delivery({"order": 1})])
    assert outcome.letter is not None
    assert (outcome.letter.reason, outcome.letter.error) == ("rejected", "odd orders are not shipped")


def test_a_handler_may_name_a_reason_of_its_own(consumer: Consumer, conn: psycopg.Connection[Any]) -> None:
    @consumer.handler(TYPE)
    def refuse(message: Event, tx: object) -> None:
        raise InvalidMessage("no-such-sku", "sku 4711 is not ours")

    [outcome] = consumer.process(conn, [delivery()])
    assert outcome.letter is not None
    assert (outcome.letter.reason, outcome.letter.error) == ("no-such-sku", "sku 4711 is not ours")


def test_a_unique_violation_is_permanent_and_only_its_messages(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    @consumer.handler(TYPE)
    def single(message: Event, tx: psycopg.Connection[Any]) -> None:
        tx.execute("INSERT INTO singles VALUES (%s)", (message.data["order"],))

    outcomes = consumer.process(conn, [delivery({"order": n}) for n in (1, 2, 2, 3)])
    assert sorted(reasons(outcomes)) == ["", "", "", "unique-violation"]
    assert database.count("singles") == 3


def body_of(**changes: Any) -> bytes:
    envelope = json.loads(delivery().body) | changes
    return json.dumps({name: value for name, value in envelope.items() if value is not ...}).encode()


ZOO = {
    "empty": (b"", "malformed"),
    "not JSON": (b"{", "malformed"),
    "not UTF-8": (b"\xff\xfe\x00", "malformed"),
    "deep": (b"[" * 200_000, "malformed"),
    "an array": (b"[]", "not-a-cloudevent"),
    "null": (b"null", "not-a-cloudevent"),
    "no specversion": (body_of(specversion=...), "not-a-cloudevent"),
    "another specversion": (body_of(specversion="0.3"), "not-a-cloudevent"),
    "no type": (body_of(type=...), "not-a-cloudevent"),
    "type is a number": (body_of(type=7), "not-a-cloudevent"),
    "a bad time": (body_of(time="yesterday"), "not-a-cloudevent"),
    "a bad sequence": (body_of(sequence=-1), "not-a-cloudevent"),
    "no id": (body_of(id=...), "invalid-id"),
    "id is a number": (body_of(id=17), "invalid-id"),
    "id is no UUID": (body_of(id="17"), "invalid-id"),
    "id is a v4": (body_of(id=str(uuid4())), "invalid-id"),
    "id of a time to come": (body_of(id=str(message_id(-3 * 86_400_000))), "invalid-id"),
    "older than the inbox remembers": (body_of(id=str(message_id(31 * 86_400_000))), "too-old"),
    "unknown type": (body_of(type="shop.order.lost.v1"), "unknown-type"),
    "unknown version": (body_of(type="shop.order.created.v2"), "unknown-version"),
    "data of the wrong shape": (body_of(data=[1]), "invalid-data"),
    "too large": (body_of(data={"order": "x" * 5_000_000}), "oversize"),
}


def test_what_cannot_be_handled_is_a_dead_letter_at_once(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    consumer.handler(TYPE, data=dict)(note)
    good = delivery({"order": 1})
    animals = [Delivery(content, "shop.events", "order.created") for content, _ in ZOO.values()]
    outcomes = consumer.process(conn, [*animals, good])
    assert dict(zip(ZOO, reasons(outcomes), strict=False)) == {name: reason for name, (_, reason) in ZOO.items()}
    assert results(outcomes) == [DEAD] * len(animals) + [DONE]
    assert database.effects() == [1]
    assert database.count("deliveries") == 0


def test_an_old_message_is_handled_when_it_is_forced(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    consumer.handler(TYPE)(note)
    old = delivery({"order": 1}, event_id=message_id(31 * 86_400_000))
    assert reasons(consumer.process(conn, [old])) == ["too-old"]
    forced = old._replace(headers={"x-outhaul-force": True})
    assert results(consumer.process(conn, [forced, forced])) == [DONE, DUPLICATE]
    assert database.effects() == [1]


def test_what_was_forgotten_once_is_too_old_whatever_the_retention_is_now(
    conn: psycopg.Connection[Any], database: Database
) -> None:
    long = Consumer("shipping", queue="q", retention=timedelta(days=300))
    long.handler(TYPE)(note)
    database.query(
        "INSERT INTO retention (table_name, forgotten_before) VALUES ('inbox', now() - interval '10 days')"
        " ON CONFLICT (table_name) DO UPDATE SET forgotten_before = excluded.forgotten_before"
    )
    outcomes = long.process(
        conn,
        [
            delivery({"order": 1}, event_id=message_id(11 * 86_400_000, salt=1)),
            delivery({"order": 2}, event_id=message_id(9 * 86_400_000, salt=2)),
        ],
    )
    assert reasons(outcomes) == ["too-old", ""]


@pytest.mark.parametrize("damage", ["COMMIT", "ROLLBACK", "/* sly */ commit"])
def test_a_handler_that_ends_the_transaction_is_refused_and_harms_no_other(
    damage: str, consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    @consumer.handler(TYPE)
    def meddle(message: Event, tx: psycopg.Connection[Any]) -> None:
        if message.data["order"] == 1:
            tx.execute(damage.encode())
        else:
            note(message, tx)

    messages = [delivery({"order": n}, event_id=message_id(salt=n)) for n in range(4)]
    outcomes = consumer.process(conn, messages)
    assert reasons(outcomes) == ["", "transaction-ended", "", ""]
    assert set(database.effects()) == {0, 2, 3}
    assert database.count("inbox") == 3


def test_commit_and_rollback_of_the_connection_are_refused(consumer: Consumer, conn: psycopg.Connection[Any]) -> None:
    @consumer.handler(TYPE)
    def meddle(message: Event, tx: psycopg.Connection[Any]) -> None:
        tx.commit()

    [outcome] = consumer.process(conn, [delivery()])
    assert outcome.result is RETRIED
    assert "forbidden within a Transaction" in str(outcome.error)


def test_a_swallowed_database_error_is_never_taken_for_success(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    @consumer.handler(TYPE)
    def swallow(message: Event, tx: psycopg.Connection[Any]) -> None:
        with contextlib.suppress(psycopg.Error):
            tx.execute("SELECT 1 / 0")

    [outcome] = consumer.process(conn, [delivery()])
    assert outcome.result is RETRIED
    assert "ON CONFLICT" in str(outcome.error)
    assert database.count("inbox") == 0


def test_a_savepoint_in_a_handler_is_fine(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    @consumer.handler(TYPE)
    def careful(message: Event, tx: psycopg.Connection[Any]) -> None:
        with contextlib.suppress(psycopg.Error), tx.transaction():
            tx.execute("SELECT 1 / 0")
        note(message, tx)

    assert results(consumer.process(conn, [delivery({"order": 1})])) == [DONE]
    assert database.effects() == [1]


def test_a_deferred_constraint_that_fails_at_commit_is_the_messages_failure(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    database.query("CREATE TABLE late (number bigint UNIQUE DEFERRABLE INITIALLY DEFERRED)")

    @consumer.handler(TYPE)
    def insert(message: Event, tx: psycopg.Connection[Any]) -> None:
        tx.execute("INSERT INTO late VALUES (%s)", (message.data["order"],))

    outcomes = consumer.process(conn, [delivery({"order": 1}), delivery({"order": 1}), delivery({"order": 2})])
    assert sorted(reasons(outcomes)) == ["", "", "unique-violation"]
    assert database.count("late") == 2


def test_a_handler_that_exits_or_returns_a_coroutine_fails_its_message_only(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    async def later() -> None:
        """Never awaited."""

    @consumer.handler(TYPE)
    def handle(message: Event, tx: psycopg.Connection[Any]) -> object:
        if message.data["order"] == 1:
            sys.exit(3)
        if message.data["order"] == 2:
            return later()
        note(message, tx)
        return None

    outcomes = consumer.process(conn, [delivery({"order": n}) for n in (1, 2, 3)])
    assert results(outcomes) == [RETRIED, RETRIED, DONE]
    assert database.effects() == [3]


def test_a_redelivered_message_that_was_never_seen_to_end_is_given_up(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    class Killed(BaseException):
        """Stands for the process's end: nothing of the consumer runs after it."""

    runs: list[int] = []

    @consumer.handler(TYPE)
    def kill(message: Event, tx: psycopg.Connection[Any]) -> None:
        runs.append(message.data["order"])
        raise Killed

    poison = delivery({"order": 1}, redelivered=True)
    for crash in range(1, 6):
        with pytest.raises(Killed):
            consumer.process(conn, [poison])
        assert database.query("SELECT started, failed FROM deliveries") == [(crash, 0)]
    [outcome] = consumer.process(conn, [poison])
    assert reasons([outcome]) == ["crashed"]
    assert len(runs) == 5
    assert database.count("deliveries") == 0


def test_a_redelivered_message_that_ends_well_or_fails_clears_its_start(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    seen: list[Any] = []

    @consumer.handler(TYPE)
    def handle(message: Event, tx: psycopg.Connection[Any]) -> None:
        seen.extend(database.query("SELECT started FROM deliveries WHERE message_id = %s", message.id))
        if message.data["order"] == 2:
            raise ValueError("no")

    outcomes = consumer.process(
        conn, [delivery({"order": 1}, redelivered=True), delivery({"order": 2}, redelivered=True)]
    )
    assert results(outcomes) == [DONE, RETRIED]
    assert seen == [(1,), (1,)]
    assert database.query("SELECT started, failed FROM deliveries") == [(0, 1)]


def test_an_outage_is_raised_and_spends_no_attempt(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    @consumer.handler(TYPE)
    def cut(message: Event, tx: psycopg.Connection[Any]) -> None:
        database.query("SELECT pg_terminate_backend(%s)", tx.info.backend_pid)
        tx.execute("SELECT 1")

    with pytest.raises(psycopg.OperationalError):
        consumer.process(conn, [delivery(), delivery()])
    assert database.count("deliveries") == 0
    assert database.count("inbox") == 0


def test_a_serialization_failure_is_nobodys_fault_until_it_never_ends(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    @consumer.handler(TYPE)
    def conflict(message: Event, tx: psycopg.Connection[Any]) -> None:
        tx.execute("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$")

    with pytest.raises(psycopg.errors.SerializationFailure):
        consumer.process(conn, [delivery()])
    assert database.count("deliveries") == 0


def inserting(message: Delivery, *, idle_seconds: float = 0) -> tuple[str, ...]:
    """The parameters that insert its inbox row."""
    hashed = hashlib.sha256(message.body).hexdigest()
    return f"{idle_seconds * 1000:.0f}", "shipping", "{" + str(message.message_id) + "}", '{"\\\\x' + hashed + '"}'


def test_the_same_message_at_two_consumers_at_once_takes_effect_once(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    consumer.handler(TYPE)(note)
    message = delivery({"order": 7})
    outcomes: list[Outcome] = []

    def second() -> None:
        with database.connect() as connection:
            outcomes.extend(consumer.process(connection, [message]))

    thread = threading.Thread(target=second)
    with database.connect() as first, first.transaction():
        first.execute(INSERT, inserting(message))
        thread.start()
        poll(
            lambda: database.query(
                "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            ),
            what="the second consumer waiting for the first",
        )
    thread.join()
    assert results(outcomes) == [DUPLICATE]
    assert database.effects() == []


def test_a_consumer_that_falls_silent_in_its_transaction_holds_its_message_up_for_a_bounded_time(
    consumer: Consumer, conn: psycopg.Connection[Any], database: Database
) -> None:
    consumer.handler(TYPE)(note)
    message = delivery({"order": 7})
    silent = psycopg.connect(database.dsn)
    silent.execute(INSERT, inserting(message, idle_seconds=1.0))
    assert results(consumer.process(conn, [message])) == [DONE]
    with pytest.raises(psycopg.Error):
        silent.commit()
    silent.close()
    assert database.effects() == [7]


@pytest.mark.parametrize(("own", "bound"), [("0", "75s"), ("20s", "20s"), ("5min", "5min")])
def test_a_transactions_bound_on_silence_is_ours_unless_somebody_set_one_and_ends_with_it(
    own: str, bound: str, conn: psycopg.Connection[Any]
) -> None:
    show = "SHOW idle_in_transaction_session_timeout"
    conn.execute(f"SET idle_in_transaction_session_timeout = '{own}'".encode())
    with conn.transaction():
        conn.execute(INSERT, inserting(delivery({"order": 7}), idle_seconds=75))
        assert conn.execute(show).fetchone() == (bound,)
    assert conn.execute(show).fetchone() == (own,)


def test_a_callers_own_transaction_may_be_silent_for_as_long_as_it_was(
    consumer: Consumer, conn: psycopg.Connection[Any]
) -> None:
    told: list[Any] = []
    consumer.handler(TYPE)(lambda _, tx: told.append(tx.execute("SHOW idle_in_transaction_session_timeout").fetchone()))
    consumer.process(conn, [delivery({"order": 7})])
    assert told == [("0",)]


def test_batches_of_two_consumers_in_any_order_do_not_deadlock(consumer: Consumer, database: Database) -> None:
    consumer.handler(TYPE)(note)
    messages = [delivery({"order": n}) for n in range(300)]
    outcomes: list[Outcome] = []

    def consume(order: list[Delivery]) -> None:
        with database.connect() as connection:
            for start in range(0, 300, 50):
                outcomes.extend(consumer.process(connection, order[start : start + 50]))

    orders = [messages, list(reversed(messages)), messages[150:] + messages[:150]]
    threads = [threading.Thread(target=consume, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(r.value for r in results(outcomes)) == ["done"] * 300 + ["duplicate"] * 600
    assert database.effects() == list(range(300))


def test_in_the_callers_transaction_nothing_is_committed(consumer: Consumer, database: Database) -> None:
    consumer.handler(TYPE)(reject_odd)
    with psycopg.connect(database.dsn, row_factory=dict_row) as connection:
        connection.execute("SELECT 1")
        outcomes = consumer.process(connection, [delivery({"order": n}) for n in range(4)])
        assert results(outcomes) == [DONE, DEAD, DONE, DEAD]
        [row] = connection.execute("SELECT count(*) AS effects FROM effects").fetchall()
        assert row["effects"] == 2
        connection.rollback()
    assert database.effects() == []


def test_a_connection_that_is_not_in_autocommit_commits_each_batch(consumer: Consumer, database: Database) -> None:
    consumer.handler(TYPE)(note)
    with psycopg.connect(database.dsn) as connection:
        consumer.process(connection, [delivery({"order": 1}), delivery({"order": 2}, redelivered=True)])
        assert database.effects() == [1, 2]


def test_what_a_handler_records_names_its_cause(consumer: Consumer, conn: psycopg.Connection[Any]) -> None:
    causes = []

    @consumer.handler(TYPE)
    def look(message: Event, tx: psycopg.Connection[Any]) -> None:
        cause = current_cause()
        assert cause is not None
        causes.append((cause.causation_id, cause.traceparent))

    event_id = message_id(salt=5)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    consumer.process(conn, [delivery(event_id=event_id, traceparent=trace)])
    assert causes == [(str(event_id), trace)]
    assert current_cause() is None


def test_a_slow_batch_is_committed_in_parts(conn: psycopg.Connection[Any], database: Database) -> None:
    hasty = Consumer("shipping", queue="q", shutdown_seconds=0.1)
    transactions = set()

    @hasty.handler(TYPE)
    def slow(message: Event, tx: psycopg.Connection[Any]) -> None:
        [(xid,)] = tx.execute("SELECT pg_current_xact_id()::text").fetchall()
        transactions.add(xid)
        until = time.monotonic() + 0.01
        while time.monotonic() < until:
            tx.execute("SELECT 1")
        note(message, tx)

    assert results(hasty.process(conn, [delivery({"order": n}) for n in range(8)])) == [DONE] * 8
    assert database.effects() == list(range(8))
    assert len(transactions) > 1


def test_async_handlers_go_through_the_same_inbox(database: Database) -> None:
    consumer = Consumer("shipping", queue="q", retry=Retry(delays=(5,)))

    @consumer.handler(TYPE)
    async def handle(message: Event, tx: psycopg.AsyncConnection[Any]) -> None:
        assert current_cause() is not None
        await tx.execute("INSERT INTO effects (number) VALUES (%s)", (message.data["order"],))
        if message.data["order"] == 2:
            raise ValueError("no")

    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as connection:
            messages = [delivery({"order": 1}), delivery({"order": 2}), delivery({"order": 3}, redelivered=True)]
            assert results(await consumer.process_async(connection, messages)) == [DONE, RETRIED, DONE]
            assert results(await consumer.process_async(connection, messages[:1])) == [DUPLICATE]

    asyncio.run(main())
    assert database.effects() == [1, 3]


def test_settings_that_cannot_work_are_refused() -> None:
    for settings in (
        {"batch_size": 0},
        {"prefetch": 0},
        {"max_crashes": 0},
        {"retention": timedelta(hours=23)},
        {"handler_timeout_seconds": 0},
        {"handler_timeout_seconds": 1000.0},
        {"dsn": "host=x bogus=1"},
        {"amqp_url": "http://nowhere"},
        {"queue": ""},
        {"queue": "q" * 250},
        {"linger_seconds": -1},
    ):
        with pytest.raises(ConfigurationError):
            Consumer("shipping", **{"queue": "q", **settings})  # type: ignore[arg-type] # that is the test
