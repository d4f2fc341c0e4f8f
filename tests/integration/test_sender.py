from __future__ import annotations

from dataclasses import replace
from typing import Any

import psycopg
import pytest

from outbox_support import in_loop
from outhaul.errors import ConfigurationError
from outhaul.sender import Sender
from outhaul.sending.sender_settings import SenderSettings
from support import BrokerUnderTest, apoll
from support_amqp import Amqp, kill_connections
from support_outbox import EXCHANGE, KEY, QUEUE, message, pending, record, rows, sent_ids

QUICK = SenderSettings(poll_seconds=0.2, lease_seconds=20, confirm_timeout_seconds=5, heartbeat_seconds=1)


def sender(dsn: str, broker: BrokerUnderTest, settings: SenderSettings = QUICK, **changes: Any) -> Sender:
    return Sender(dsn=dsn, amqp_url=broker.amqp_url, settings=settings, **changes)


def declare(amqp: Amqp, **arguments: Any) -> None:
    amqp.exchange(EXCHANGE)
    amqp.queue(QUEUE, (EXCHANGE, KEY), **arguments)


@in_loop
async def test_committed_rows_are_sent_and_leave_the_outbox(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    recorded = record(outbox_dsn, *[message(n) for n in range(50)])
    with Amqp(broker) as amqp:
        declare(amqp)
        async with sender(outbox_dsn, broker) as running:
            await apoll(lambda: pending(outbox_dsn) == 0)
            await apoll(lambda: running.state().sent == 50)
        taken = amqp.take(QUEUE, 50)
    assert {p.message_id for p, _ in taken} == {str(r.message_id) for r in recorded}
    assert sorted(sent_ids(outbox_dsn)) == sorted(r.message_id for r in recorded)
    properties, _ = taken[0]
    assert (properties.delivery_mode, properties.type) == (2, "test.order.created.v1")
    assert properties.content_type == "application/cloudevents+json"


@in_loop
async def test_an_unbound_route_spends_no_attempt_and_drains_once_it_is_bound(
    outbox_dsn: str, broker: BrokerUnderTest
) -> None:
    with Amqp(broker) as amqp:
        declare(amqp)
        record(outbox_dsn, *[message(n, routing_key="order.lost") for n in range(1200)])
        record(outbox_dsn, *[message(n) for n in range(20)])
        async with sender(outbox_dsn, broker) as running:
            await apoll(lambda: pending(outbox_dsn) == 1200, what="the healthy route to drain")
            [trouble] = running.state().routes
            assert (trouble.routing_key, trouble.kind) == ("order.lost", "unroutable")
            await apoll(lambda: any(r["last_error"] and "NO_ROUTE" in r["last_error"] for r in rows(outbox_dsn)))
            amqp.bind(QUEUE, EXCHANGE, "order.lost")
            await apoll(lambda: pending(outbox_dsn) == 0, seconds=20)
            await apoll(lambda: running.state().routes == ())
        assert amqp.depth(QUEUE) == 1220
    with psycopg.connect(outbox_dsn) as conn:
        assert conn.execute("SELECT max(attempts) FROM outbox_sent").fetchone() == (0,)


@in_loop
async def test_a_missing_exchange_holds_up_no_other_route(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    with Amqp(broker) as amqp:
        declare(amqp)
        for n in range(120):
            record(outbox_dsn, message(n), exchange="test.missing" if n % 10 == 3 else EXCHANGE)
        async with sender(outbox_dsn, broker) as running:
            await apoll(lambda: pending(outbox_dsn) == 12, what="all but the missing exchange's rows sent")
            assert [r.kind for r in running.state().routes] == ["no-exchange"]
            amqp.exchange("test.missing")
            amqp.bind(QUEUE, "test.missing", KEY)
            await apoll(lambda: pending(outbox_dsn) == 0, seconds=20)
        assert amqp.depth(QUEUE) >= 120  # a window that failed is sent again


@in_loop
async def test_a_missing_exchange_costs_one_probe_however_many_routes_it_has(
    outbox_dsn: str, broker: BrokerUnderTest
) -> None:
    with Amqp(broker) as amqp:
        declare(amqp)
        record(outbox_dsn, *[message(n, routing_key=f"order.{n}") for n in range(300)], exchange="test.missing")
        record(outbox_dsn, *[message(n) for n in range(300)])
        async with sender(outbox_dsn, broker) as running:
            await apoll(lambda: pending(outbox_dsn) == 300, what="the healthy route to drain")
            assert len(running.state().routes) == 1
            # The probes go on, and cost what is on its way elsewhere nothing.
            for n in range(5):
                record(outbox_dsn, *[message(m) for m in range(200)])
                await apoll(lambda: pending(outbox_dsn) == 300)
                assert amqp.depth(QUEUE) <= 600 + 200 * n, "sent twice"
            amqp.exchange("test.missing")
            amqp.bind(QUEUE, "test.missing", "#")
            await apoll(lambda: pending(outbox_dsn) == 0, seconds=20)
            await apoll(lambda: running.state().routes == ())


@in_loop
async def test_a_full_queue_keeps_rows_pending_until_there_is_room(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    with Amqp(broker) as amqp:
        declare(amqp, x_max_length=200, x_overflow="reject-publish")
        record(outbox_dsn, *[message(n) for n in range(2000)])
        async with sender(outbox_dsn, broker, replace(QUICK, window_messages=20)) as running:
            await apoll(lambda: [r.kind for r in running.state().routes] == ["nacked"])
            left = pending(outbox_dsn)
            assert left > 0
            assert {r["status"] for r in rows(outbox_dsn)} == {"pending"}

            def drained() -> bool:
                amqp.purge(QUEUE)
                return pending(outbox_dsn) == 0

            await apoll(drained, seconds=40)


@in_loop
async def test_a_message_refused_for_itself_is_parked_and_its_neighbours_are_sent(
    outbox_dsn: str, broker: BrokerUnderTest
) -> None:
    with Amqp(broker) as amqp:
        declare(amqp)
        record(outbox_dsn, *[message(n) for n in range(30)])
        with psycopg.connect(outbox_dsn) as conn:
            # The broker closes the channel (406) over a BCC header that is no list: it routes by it.
            conn.execute("""UPDATE outbox SET headers = '{"BCC": "not a list"}' WHERE aggregate_id IN ('7', '19')""")
        settings = SenderSettings(
            poll_seconds=0.2, lease_seconds=20, confirm_timeout_seconds=5, max_attempts=2, refused_base_seconds=0.1
        )
        async with sender(outbox_dsn, broker, settings) as running:
            await apoll(lambda: [r["status"] for r in rows(outbox_dsn)] == ["parked"] * 2)
            await apoll(lambda: running.state().parked == 2)  # counted once the statement has answered
        for row in rows(outbox_dsn, "attempts", "park_reason", "last_error"):
            assert (row["attempts"], row["park_reason"]) == (2, "refused")
            assert "PRECONDITION_FAILED" in row["last_error"]
        everything = amqp.take(QUEUE, amqp.depth(QUEUE))
        assert len({p.message_id for p, _ in everything}) == 28
        assert len(everything) <= 60  # the window that failed, and its replay one by one


@in_loop
async def test_a_connection_killed_by_the_broker_loses_nothing(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    with Amqp(broker) as amqp:
        declare(amqp)
        async with sender(outbox_dsn, broker, name="killed sender") as running:
            record(outbox_dsn, message(0))
            await apoll(lambda: pending(outbox_dsn) == 0)
            kill_connections(broker, "killed sender")
            record(outbox_dsn, *[message(n) for n in range(1, 100)])
            await apoll(lambda: pending(outbox_dsn) == 0)
            assert running.state().broker == "connected"
        assert len({p.message_id for p, _ in amqp.take(QUEUE, 100)}) == 100


def test_a_lease_shorter_than_confirm_deadline_and_flush_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="lease_seconds=30"):
        SenderSettings(lease_seconds=30, confirm_timeout_seconds=30)
