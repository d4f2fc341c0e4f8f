"""The consumer against a real broker and a real database."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from consuming import DELAYS, QUEUE, Shop, body, opened_shop
from outhaul import Reject, Retry
from outhaul.broker_admin.topology_apply import apply
from outhaul.consuming.runtime import ConsumerState
from outhaul.errors import ConfigurationError, ForkedProcess, OuthaulError
from outhaul.events import Event
from outhaul.topology import consumer_topology
from support import BrokerUnderTest, apoll, poll
from support_late_deliveries import LateDeliveries


@pytest.fixture
def shop(broker: BrokerUnderTest, inbox_dsn: str) -> Iterator[Shop]:
    with opened_shop(broker, inbox_dsn) as shop:
        yield shop


def note(message: Event, tx: psycopg.Connection[Any]) -> None:
    tx.execute("INSERT INTO effects (number) VALUES (%s)", (message.data["order"],))


def test_a_stream_is_consumed_with_one_effect_each(shop: Shop) -> None:
    shop.send(1000)
    consumer = shop.consumer(note)
    assert consumer.state.status == "stopped"
    with consumer:
        poll(lambda: len(shop.database.effects()) == 1000, seconds=30, what="1000 effects")
        assert consumer.active
        assert consumer.state == ConsumerState("consuming", "", 500)
        assert consumer.heartbeat_age_seconds < 10
    assert shop.database.effects() == list(range(1, 1001))
    assert shop.depth(QUEUE) == 0
    assert consumer.state == ConsumerState("stopped", "", 0)


def test_a_delivery_that_comes_after_its_subscription_was_cancelled_is_handled_too(shop: Shop) -> None:
    parts = urlsplit(shop.broker.amqp_url)
    with LateDeliveries(parts.hostname or "", parts.port or 0, seconds=0.3) as proxy:
        netloc = f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}"
        shop.send(100)
        with shop.consumer(note, amqp_url=urlunsplit(parts._replace(netloc=netloc))) as consumer:
            poll(lambda: len(shop.database.effects()) == 100, seconds=30, what="100 effects, and room for more")
            with shop.database.read_only():  # the consumer cancels, with deliveries on their way
                for number in range(101, 111):
                    shop.send(1, first=number)
                poll(lambda: proxy.overtaken > 0, what="a delivery overtaken by the answer to the cancel")
                poll(lambda: consumer.state.status != "consuming", what="a consumer that waits for its database")
            shop.send(50, first=111)
            poll(lambda: shop.depth(QUEUE) == 0, seconds=30, what="an empty queue")
            poll(lambda: len(shop.database.effects()) == 160, seconds=10, what="160 effects")
    assert shop.database.effects() == list(range(1, 161))


def test_a_failed_message_is_tried_again_after_its_delay_and_then_given_up(shop: Shop) -> None:
    runs: list[float] = []

    def handle(message: Event, tx: psycopg.Connection[Any]) -> None:
        if message.data["order"] == 2:
            runs.append(time.monotonic())
            raise ValueError("no courier")
        note(message, tx)

    shop.send(3)
    with shop.consumer(handle):
        [(headers, content)] = shop.wait_for_letters(1)
    assert len(runs) == 3
    assert runs[1] - runs[0] >= DELAYS[0]
    assert runs[2] - runs[1] >= DELAYS[1]
    assert headers["x-outhaul-reason"] == "exhausted"
    assert headers["x-outhaul-failed"] == 3
    assert headers["x-outhaul-error"] == "ValueError: no courier"
    assert (headers["x-outhaul-exchange"], headers["x-outhaul-routing-key"]) == ("shop.events", "order.created")
    assert headers["x-outhaul-consumer"] == "shipping"
    assert b'"order": 2' in content
    assert shop.database.effects() == [1, 3]
    poll(lambda: shop.database.count("deliveries") == 0 or shop.depth(QUEUE), what="no trace of the failures")


def test_a_rejected_message_and_a_malformed_one_are_dead_letters_at_once(shop: Shop) -> None:
    def handle(message: Event, tx: psycopg.Connection[Any]) -> None:
        raise Reject("no courier serves this address")

    shop.publish(b"not JSON", body({"order": 1})[1], b"[]")
    with shop.consumer(handle):
        letters = shop.wait_for_letters(3)
    assert sorted(headers["x-outhaul-reason"] for headers, _ in letters) == [
        "malformed",
        "not-a-cloudevent",
        "rejected",
    ]
    assert shop.take(f"{QUEUE}.retry.200ms") == []


def test_what_the_dead_letter_exchange_cannot_take_is_left_to_the_broker(shop: Shop) -> None:
    with shop.connection() as connection:
        connection.channel().queue_unbind(f"{QUEUE}.dlq", "outhaul.dlx", QUEUE)
    shop.publish(b"not JSON")
    with shop.consumer(note):
        poll(lambda: shop.depth(QUEUE) == 0, what="the queue looking empty")
        shop.send(1, first=5)
        poll(lambda: shop.database.effects() == [5], what="the next message")
    with shop.management() as api:

        def kept() -> bool:
            queue = api.get(f"/api/queues/{shop.broker.vhost}/{QUEUE}").json()
            return bool(queue.get("messages_dlx") == 1 or queue.get("messages", 0) == 1)

        poll(kept, seconds=20, what="the letter kept by its source")


def test_a_missing_delay_tier_keeps_the_message_and_spends_nothing(shop: Shop) -> None:
    runs: list[int] = []

    def handle(message: Event, tx: psycopg.Connection[Any]) -> None:
        runs.append(1)
        if len(runs) == 1:
            raise ValueError("not yet")
        note(message, tx)

    with shop.connection() as connection:
        connection.channel().queue_unbind(f"{QUEUE}.retry.200ms", "outhaul.retry", f"{QUEUE}.retry.200ms")
    shop.send(1)
    with shop.consumer(handle):
        poll(lambda: shop.database.query("SELECT failed FROM deliveries") == [(1,)], what="the failure on record")
        with shop.connection() as connection:
            connection.channel().queue_bind(f"{QUEUE}.retry.200ms", "outhaul.retry", f"{QUEUE}.retry.200ms")
        poll(lambda: shop.database.effects() == [1], seconds=20, what="the effect after the tier is back")
    assert len(runs) == 2
    assert shop.depth(f"{QUEUE}.dlq") == 0


def test_a_message_handled_by_another_consumer_meanwhile_takes_effect_once(shop: Shop) -> None:
    shop.send(300)
    with shop.consumer(note), shop.consumer(note):
        shop.send(300, first=301)
        poll(lambda: len(shop.database.effects()) >= 600, seconds=30, what="600 effects")
    assert shop.database.effects() == list(range(1, 601))


def test_a_connection_closed_by_the_broker_is_made_anew_and_nothing_is_lost(shop: Shop) -> None:
    with shop.consumer(note) as consumer, shop.management() as api:
        shop.send(200)

        def ours() -> list[str]:
            found = api.get("/api/connections").json()
            return [c["name"] for c in found if c.get("vhost") == shop.broker.vhost and c.get("client_properties")]

        poll(lambda: consumer.active, what="consuming")
        for name in poll(ours, seconds=15, what="the connections in the management API"):
            api.delete(f"/api/connections/{name}", headers={"X-Reason": "test"})
        shop.send(200, first=201)
        poll(lambda: len(shop.database.effects()) == 400, seconds=30, what="all effects")
        poll(lambda: consumer.active, what="consuming again")
    assert shop.database.effects() == list(range(1, 401))
    assert shop.depth(QUEUE) == 0
    assert shop.depth(f"{QUEUE}.dlq") == 0


def test_a_cancel_by_the_broker_makes_it_subscribe_again(shop: Shop) -> None:
    with shop.consumer(note) as consumer:
        poll(lambda: consumer.active, what="consuming")
        with shop.connection() as connection:
            connection.channel().queue_delete(QUEUE)
        poll(lambda: not consumer.active, what="readiness lost")
        poll(lambda: "topology apply" in consumer.state.detail, what="the state saying what helps")
        apply(
            consumer_topology(QUEUE, [("shop.events", "order.created")], retry_delays_seconds=DELAYS),
            shop.broker.amqp_url,
            shop.broker.management_url,
        )
        shop.send(1)
        poll(lambda: shop.database.effects() == [1], seconds=20, what="the effect")


def test_a_database_session_ended_in_the_middle_of_a_batch_spends_no_attempt(shop: Shop) -> None:
    cuts = [3]

    def handle(message: Event, tx: psycopg.Connection[Any]) -> None:
        note(message, tx)
        if message.data["order"] == 50 and cuts[0]:
            cuts[0] -= 1
            shop.database.query("SELECT pg_terminate_backend(%s)", tx.info.backend_pid)
            tx.execute("SELECT 1")

    shop.send(100)
    with shop.consumer(handle):
        poll(lambda: len(shop.database.effects()) == 100, seconds=30, what="100 effects")
    assert shop.database.effects() == list(range(1, 101))
    assert cuts == [0]
    assert shop.database.count("deliveries") == 0
    assert shop.depth(f"{QUEUE}.dlq") == 0
    assert all(shop.depth(f"{QUEUE}.retry.{delay}") == 0 for delay in ("200ms", "400ms"))


def test_while_the_database_is_away_no_messages_are_taken_and_readiness_says_so(shop: Shop) -> None:
    name = shop.database.dsn.rsplit("/", 1)[1]
    admin = shop.database.dsn.rsplit("/", 1)[0] + "/postgres"

    def allow(connections: bool) -> None:
        with psycopg.connect(admin, autocommit=True) as conn:
            conn.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {str(connections).lower()}'.encode())
            if not connections:
                conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))

    with shop.consumer(note) as consumer:
        poll(lambda: consumer.active, what="consuming")
        allow(False)
        shop.send(20)
        poll(lambda: consumer.state.status == "outage", what="the outage seen")
        poll(lambda: not consumer.active, what="readiness lost")
        assert consumer.heartbeat_age_seconds < 30
        allow(True)
        poll(lambda: len(shop.database.effects()) == 20, seconds=30, what="all effects")
        poll(lambda: consumer.active, what="consuming again")
    assert shop.database.count("deliveries") == 0
    assert shop.depth(f"{QUEUE}.dlq") == 0


def test_it_starts_without_its_database_and_without_its_queue(shop: Shop) -> None:
    with shop.consumer(note, queue="not.declared") as consumer:
        poll(lambda: "topology apply" in consumer.state.detail, what="the state saying what helps")
        assert not consumer.active
    with shop.consumer(note, dsn="postgresql://nobody@127.0.0.1:1/none") as consumer:
        poll(lambda: consumer.state.status == "outage", what="the outage seen")
        assert not consumer.active


def test_async_handlers_run_on_the_loop_they_were_entered_on(shop: Shop) -> None:
    threads = set()

    async def handle(message: Event, tx: psycopg.AsyncConnection[Any]) -> None:
        threads.add(threading.get_ident())
        await tx.execute("INSERT INTO effects (number) VALUES (%s)", (message.data["order"],))
        if message.data["order"] == 5:
            raise Reject("five")

    async def main() -> None:
        await asyncio.to_thread(shop.send, 50)
        async with shop.consumer(handle):
            await apoll(lambda: len(shop.database.effects()) == 49, seconds=20, what="49 effects")
            assert threads == {threading.get_ident()}

    asyncio.run(main())
    assert len(shop.wait_for_letters(1)) == 1
    shop.opened.clear()


def test_closing_finishes_what_is_in_flight_and_redelivers_nothing_that_was_committed(shop: Shop) -> None:
    started = threading.Event()

    def handle(message: Event, tx: psycopg.Connection[Any]) -> None:
        started.set()
        note(message, tx)

    shop.send(2000)
    consumer = shop.consumer(handle)
    consumer.start()
    poll(started.is_set, what="the first message")
    poll(lambda: len(shop.database.effects()) > 100, what="some work")
    consumer.close()
    done = set(shop.database.effects())
    waiting = [content for _, content in shop.take(QUEUE)]
    assert len(done) + len(waiting) == 2000
    assert shop.database.count("deliveries") == 0


def test_a_handler_cannot_be_registered_on_a_running_consumer(shop: Shop) -> None:
    with shop.consumer(note) as consumer, pytest.raises(ConfigurationError, match="before the consumer is started"):
        consumer.handler("other.v1")(note)


def test_a_consumer_carried_over_a_fork_is_refused(shop: Shop) -> None:
    with shop.consumer(note) as consumer:
        read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the fork of a threaded process is what is tested
            child = os.fork()
        if child == 0:
            try:
                _ = consumer.active
                os.write(write, b"no error")
            except ForkedProcess as error:
                os.write(write, str(error).encode())
            finally:
                os._exit(0)
        os.close(write)
        assert b"before a fork" in os.read(read, 1000)
        os.close(read)
        os.waitpid(child, 0)


def test_a_message_that_conflicts_every_time_is_its_own_failure_in_the_end(shop: Shop) -> None:
    runs: list[int] = []

    def handle(message: Event, tx: psycopg.Connection[Any]) -> None:
        if message.data["order"] == 2:
            runs.append(1)
            tx.execute("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$")
        note(message, tx)

    shop.send(3)
    with shop.consumer(handle, retry=Retry(delays=DELAYS, max_attempts=1)):
        [(headers, _)] = shop.wait_for_letters(1)
        poll(lambda: shop.database.effects() == [1, 3], what="the others' effects")
    assert headers["x-outhaul-reason"] == "exhausted"
    assert headers["x-outhaul-error"].startswith("SerializationFailure")
    assert len(runs) >= 10


def test_logs_and_alerts_tell_what_failed_without_a_word_of_the_payload(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    def handle(message: Event, tx: object) -> None:
        raise ValueError(f"cannot ship to {message.data['address']}")

    shop.send(1, address="Downing Street 10")
    with caplog.at_level("INFO"), shop.consumer(handle, retry=Retry(delays=DELAYS, max_attempts=2)):
        [(headers, _)] = shop.wait_for_letters(1)
    assert "Downing Street" in headers["x-outhaul-error"]
    assert "Downing Street" not in caplog.text
    assert "ValueError at" in caplog.text
    assert "in handle" in caplog.text


def test_a_held_message_given_back_at_the_end_has_not_crashed(shop: Shop) -> None:
    def handle(message: Event, tx: psycopg.Connection[Any]) -> None:
        tx.execute("DO $$ BEGIN RAISE EXCEPTION 'disk full' USING ERRCODE = '53100'; END $$")

    shop.send(1)
    with shop.connection() as connection:  # taken and not acked: it comes back as redelivered
        connection.channel().basic_get(QUEUE)
    with shop.consumer(handle) as consumer:
        poll(lambda: shop.database.query("SELECT started FROM deliveries") == [(1,)], what="the run on record")
        poll(lambda: consumer.state.status == "outage", what="the outage seen")
    assert shop.database.query("SELECT started, failed FROM deliveries") == [(0, 0)]
    assert shop.depth(QUEUE) == 1


def test_closing_does_not_wait_for_ever_for_a_handler(shop: Shop) -> None:
    started, released = threading.Event(), threading.Event()

    def handle(message: Event, tx: psycopg.Connection[Any]) -> None:
        started.set()
        released.wait(30)
        note(message, tx)

    shop.send(3)
    consumer = shop.consumer(handle, shutdown_seconds=0.5)
    consumer.start()
    poll(started.is_set, what="the handler at work")
    began = time.monotonic()
    consumer.close()
    assert time.monotonic() - began < 5
    poll(lambda: shop.depth(QUEUE) == 3, what="the messages back in their queue")
    released.set()
    poll(lambda: len(shop.database.effects()) == 1, what="the late commit")
    with shop.consumer(note):
        poll(lambda: len(shop.database.effects()) >= 3, what="the others")
    assert shop.database.effects() == [1, 2, 3]


def test_run_returns_when_it_is_told_to_stop(shop: Shop) -> None:
    consumer = shop.consumer(note)
    thread = threading.Thread(target=consumer.run)
    thread.start()
    shop.send(3)
    poll(lambda: len(shop.database.effects()) == 3, what="the effects")
    consumer.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert consumer.state.status == "stopped"


def test_a_defect_of_the_consumer_ends_run_with_its_cause(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("outhaul.inbox.Inbox.process", defect)
    shop.send(1)
    with pytest.raises(OuthaulError, match="ZeroDivisionError"):
        shop.consumer(note).run()
