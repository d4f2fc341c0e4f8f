from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from outbox_support import in_loop
from outhaul.amqp.broker import close_connection, open_channel, open_connection
from outhaul.errors import BrokerUnreachable, ConfigurationError
from outhaul.publisher import Outcome, Outgoing, Publisher, Settled
from outhaul.settings import BrokerSettings
from support import BrokerUnderTest, apoll
from support_amqp import Amqp, kill_connections, through_port
from support_proxy import Proxy

SECONDS = 10.0


def outgoing(n: int = 0, *, exchange: str = "", key: str = "q", **changes: Any) -> Outgoing:
    return Outgoing(n, exchange, key, b"body %d" % n, f"id-{n}", "test.v1")._replace(**changes)


class Caught:
    """What a publisher in windowed use reports."""

    def __init__(self) -> None:
        self.settled: dict[Any, Settled] = {}
        self.times = 0

    def __call__(self, outcomes: Sequence[Settled]) -> None:
        for each in outcomes:
            self.settled[each.key] = each
            self.times += 1

    def of(self, outcome: Outcome) -> list[Any]:
        return sorted(key for key, each in self.settled.items() if each.outcome is outcome)


async def publish_all(publisher: Publisher, messages: Sequence[Outgoing]) -> None:
    for each in messages:
        await apoll(publisher.has_room)
        assert publisher.publish(each) is None


@in_loop
async def test_a_routed_message_is_confirmed_with_its_properties(broker: BrokerUnderTest) -> None:
    with Amqp(broker) as amqp:
        amqp.queue("q")
        async with Publisher(broker.amqp_url) as publisher:
            settled = await publisher.send(outgoing(headers={"n": 1}), timeout_seconds=SECONDS)
        assert settled == Settled(0, Outcome.CONFIRMED)
        [(properties, body)] = amqp.take("q", 1)
    assert (body, properties.message_id, properties.type) == (b"body 0", "id-0", "test.v1")
    assert (properties.headers["n"], properties.delivery_mode) == (1, 2)


@in_loop
async def test_an_unroutable_message_is_not_sent(broker: BrokerUnderTest) -> None:
    async with Publisher(broker.amqp_url) as publisher:
        settled = await publisher.send(outgoing(key="nowhere"), timeout_seconds=SECONDS)
    assert settled.outcome is Outcome.UNROUTABLE
    assert "NO_ROUTE" in settled.detail
    assert "nowhere" in settled.detail


@in_loop
async def test_in_a_mixed_window_only_the_unroutable_ones_are_unsent(broker: BrokerUnderTest) -> None:
    caught = Caught()
    with Amqp(broker) as amqp:
        amqp.queue("q")
        async with Publisher(broker.amqp_url, on_settled=caught) as publisher:
            messages = [outgoing(n, key="nowhere" if n % 4 == 0 else "q") for n in range(200)]
            await publish_all(publisher, messages)
            await apoll(lambda: caught.times == 200)
        assert caught.of(Outcome.UNROUTABLE) == list(range(0, 200, 4))
        assert caught.of(Outcome.CONFIRMED) == [n for n in range(200) if n % 4]
        assert amqp.depth("q") == 150


@in_loop
async def test_a_missing_exchange_within_a_window_makes_all_of_it_suspect(broker: BrokerUnderTest) -> None:
    caught = Caught()
    with Amqp(broker) as amqp:
        amqp.queue("q")
        async with Publisher(broker.amqp_url, on_settled=caught) as publisher:
            await publisher.send(outgoing(-1), timeout_seconds=SECONDS)  # proves the connection
            for n in range(300):
                publisher.publish(outgoing(n, exchange="missing" if n == 150 else ""))
            await apoll(lambda: caught.times == 300)
            assert all(caught.settled[n].outcome is Outcome.UNKNOWN for n in range(150, 300))
            assert all(each.suspect for each in caught.settled.values() if each.outcome is Outcome.UNKNOWN)
            assert "404" in caught.settled[150].detail
            alone = await publisher.send(outgoing(150, exchange="missing"), timeout_seconds=SECONDS)
            assert alone.outcome is Outcome.NO_EXCHANGE
            assert (await publisher.send(outgoing(151), timeout_seconds=SECONDS)).outcome is Outcome.CONFIRMED


@in_loop
async def test_each_of_several_awaited_messages_gets_its_own_outcome(broker: BrokerUnderTest) -> None:
    with Amqp(broker) as amqp:
        amqp.queue("q")
        async with Publisher(broker.amqp_url) as publisher:
            outcomes = await asyncio.gather(
                *[
                    publisher.send(outgoing(n, exchange="missing" if n == 3 else ""), timeout_seconds=SECONDS)
                    for n in range(6)
                ]
            )
    assert [each.outcome is Outcome.CONFIRMED for each in outcomes] == [True, True, True, False, True, True]
    assert outcomes[3].outcome is Outcome.NO_EXCHANGE


@in_loop
async def test_a_full_queue_nacks(broker: BrokerUnderTest) -> None:
    with Amqp(broker) as amqp:
        amqp.queue("q", x_max_length=1, x_overflow="reject-publish")
        async with Publisher(broker.amqp_url) as publisher:
            outcomes = [(await publisher.send(outgoing(n), timeout_seconds=SECONDS)).outcome for n in range(6)]
    assert outcomes[0] is Outcome.CONFIRMED
    assert outcomes[-1] is Outcome.NACKED


@pytest.mark.parametrize(
    "changes",
    [
        {"message_id": "x" * 300},
        {"type": "ü" * 200},
        {"routing_key": "k" * 256},
        {"headers": {"value": object()}},
        {"headers": {"n" * 300: 1}},
        {"headers": {"big": 1 << 80}},
        {"type": "lone surrogate \ud800"},
    ],
    ids=["message_id", "type", "routing_key", "header value", "header name", "header number", "surrogate"],
)
def test_a_message_the_client_cannot_encode_is_refused_alone(changes: dict[str, Any], broker: BrokerUnderTest) -> None:
    async def run() -> None:
        caught = Caught()
        with Amqp(broker) as amqp:
            amqp.queue("q")
            async with Publisher(broker.amqp_url, on_settled=caught) as publisher:
                await publisher.send(outgoing(-1), timeout_seconds=SECONDS)
                for n in range(20):
                    at_once = publisher.publish(outgoing(n, **changes) if n == 7 else outgoing(n))
                    assert (at_once is not None) == (n == 7)
                    if at_once is not None:
                        assert at_once.outcome is Outcome.REFUSED
                        assert "cannot be encoded" in at_once.detail
                await apoll(lambda: caught.times == 19)
            assert len(caught.of(Outcome.CONFIRMED)) == 19

    asyncio.run(run())


@in_loop
async def test_a_message_the_broker_refuses_is_refused_when_alone(broker: BrokerUnderTest) -> None:
    async with Publisher(broker.amqp_url) as publisher:
        settled = await publisher.send(outgoing(headers={"BCC": "no list"}), timeout_seconds=SECONDS)
    assert settled.outcome is Outcome.REFUSED
    assert "406" in settled.detail


@in_loop
async def test_a_large_message_arrives_whole(broker: BrokerUnderTest) -> None:
    body = bytes(range(256)) * 4 * 10_000
    with Amqp(broker) as amqp:
        amqp.queue("q")
        async with Publisher(broker.amqp_url) as publisher:
            assert (await publisher.send(outgoing(body=body), timeout_seconds=30)).outcome is Outcome.CONFIRMED
        [(_, received)] = amqp.take("q", 1)
    assert received == body


@in_loop
async def test_a_message_too_large_for_the_broker_is_refused(broker: BrokerUnderTest) -> None:
    if broker.version < (4,):
        pytest.skip("before 4.0 the broker takes up to 128 MiB, and this machine need not")
    async with Publisher(broker.amqp_url) as publisher:
        settled = await publisher.send(outgoing(body=b"x" * (17 * 1024 * 1024)), timeout_seconds=30)
        assert settled.outcome is Outcome.REFUSED
        assert "larger than configured max size" in settled.detail


@in_loop
async def test_headers_beyond_the_frame_size_are_refused_though_they_cost_the_connection(
    broker: BrokerUnderTest,
) -> None:
    async with Publisher(broker.amqp_url) as publisher:
        settled = await publisher.send(outgoing(headers={"big": "x" * 200_000}), timeout_seconds=SECONDS)
        assert settled.outcome is Outcome.REFUSED
        assert "501" in settled.detail


@in_loop
async def test_a_killed_connection_leaves_what_is_in_flight_unknown_and_comes_back(broker: BrokerUnderTest) -> None:
    caught = Caught()
    with Amqp(broker) as amqp:
        amqp.queue("q")
        async with Publisher(broker.amqp_url, on_settled=caught, name="to be killed") as publisher:
            assert (await publisher.send(outgoing(-1), timeout_seconds=SECONDS)).outcome is Outcome.CONFIRMED
            await asyncio.to_thread(kill_connections, broker, "to be killed")
            assert (await publisher.send(outgoing(1), timeout_seconds=SECONDS)).outcome is Outcome.CONFIRMED


@in_loop
async def test_a_publisher_starts_without_the_broker_and_sends_once_it_is_there(broker: BrokerUnderTest) -> None:
    parts = urlsplit(broker.amqp_url)
    with Amqp(broker) as amqp, Proxy(parts.hostname or "", parts.port or 0) as proxy:
        amqp.queue("q")
        proxy.stop()
        async with Publisher(through_port(broker.amqp_url, proxy.port)) as publisher:
            unsent = await publisher.send(outgoing(), timeout_seconds=0.5)
            assert unsent.outcome is Outcome.UNKNOWN
            assert "connection refused" in unsent.detail
            assert publisher.status == "disconnected"
            proxy.start()
            assert (await publisher.send(outgoing(), timeout_seconds=SECONDS)).outcome is Outcome.CONFIRMED


@in_loop
async def test_closing_takes_no_time_while_the_connection_is_still_being_made(broker: BrokerUnderTest) -> None:
    parts = urlsplit(broker.amqp_url)
    with Proxy(parts.hostname or "", parts.port or 0) as proxy:
        proxy.blackhole()
        async with Publisher(through_port(broker.amqp_url, proxy.port)) as publisher:
            waiting = asyncio.create_task(publisher.send(outgoing(), timeout_seconds=60))
            await apoll(lambda: publisher.status == "starting")
            began = time.monotonic()
        assert time.monotonic() - began < 2
        assert (await waiting).outcome is Outcome.UNKNOWN


@in_loop
async def test_a_half_open_link_is_noticed_by_the_confirm_deadline(broker: BrokerUnderTest) -> None:
    caught = Caught()
    parts = urlsplit(broker.amqp_url)
    with Amqp(broker) as amqp, Proxy(parts.hostname or "", parts.port or 0) as proxy:
        amqp.queue("q")
        async with Publisher(
            through_port(broker.amqp_url, proxy.port), on_settled=caught, confirm_timeout_seconds=0.5
        ) as publisher:
            await publisher.send(outgoing(-1), timeout_seconds=SECONDS)
            proxy.blackhole()
            started = time.monotonic()
            for n in range(10):
                publisher.publish(outgoing(n))
            await apoll(lambda: caught.times == 10)
            assert time.monotonic() - started < 3
            assert len(caught.of(Outcome.UNKNOWN)) == 10
            assert "no confirm within 0.5 s" in caught.settled[0].detail
            assert not caught.settled[0].suspect
            proxy.heal()
            assert (await publisher.send(outgoing(1), timeout_seconds=SECONDS)).outcome is Outcome.CONFIRMED


@in_loop
async def test_a_reset_link_leaves_everything_in_flight_unknown(broker: BrokerUnderTest) -> None:
    caught = Caught()
    parts = urlsplit(broker.amqp_url)
    with Amqp(broker) as amqp, Proxy(parts.hostname or "", parts.port or 0) as proxy:
        amqp.queue("q")
        async with Publisher(through_port(broker.amqp_url, proxy.port), on_settled=caught) as publisher:
            await publisher.send(outgoing(-1), timeout_seconds=SECONDS)
            proxy.blackhole()
            for n in range(10):
                publisher.publish(outgoing(n))
            await asyncio.to_thread(proxy.reset)
            await apoll(lambda: caught.times == 10)
            assert len(caught.of(Outcome.UNKNOWN)) == 10


@in_loop
async def test_a_fresh_connection_is_proved_by_one_message_before_the_window_is_filled(
    broker: BrokerUnderTest,
) -> None:
    with Amqp(broker) as amqp:
        amqp.queue("q")
        async with Publisher(broker.amqp_url) as publisher:
            await apoll(publisher.has_room)
            assert not publisher.proven
            publisher.publish(outgoing(0))
            assert not publisher.has_room()
            await apoll(lambda: publisher.proven)
            publisher.publish(outgoing(1))
            assert publisher.has_room()


@in_loop
async def test_the_window_is_bounded_in_messages_and_in_bytes(broker: BrokerUnderTest) -> None:
    with Amqp(broker) as amqp:
        amqp.queue("q")
        async with Publisher(broker.amqp_url, window_messages=3, window_bytes=1000) as publisher:
            await publisher.send(outgoing(0), timeout_seconds=SECONDS)
            publisher.publish(outgoing(1, body=b"x" * 900))
            assert publisher.has_room(100)
            assert not publisher.has_room(101)
            publisher.publish(outgoing(2))
            publisher.publish(outgoing(3))
            assert not publisher.has_room()


@in_loop
async def test_closing_waits_for_the_confirms_still_out(broker: BrokerUnderTest) -> None:
    caught = Caught()
    with Amqp(broker) as amqp:
        amqp.queue("q")
        async with Publisher(broker.amqp_url, on_settled=caught) as publisher:
            await publisher.send(outgoing(-1), timeout_seconds=SECONDS)
            for n in range(400):
                publisher.publish(outgoing(n))
        assert len(caught.of(Outcome.CONFIRMED)) == 400
        assert publisher.status == "closed"


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda s: replace(s, user="nobody"), "check user and password"),
        (lambda s: replace(s, virtual_host="missing"), "create the virtual host"),
        (lambda s: replace(s, port=1), "start RabbitMQ"),
        (lambda s: replace(s, host="no-such-host.invalid"), "check the host"),
    ],
    ids=["user", "virtual host", "port", "host"],
)
def test_a_broker_that_cannot_be_used_is_named_with_the_way_out(
    change: Any, remedy: str, broker: BrokerUnderTest
) -> None:
    async def run() -> None:
        await open_connection(change(BrokerSettings.parse(broker.amqp_url)), name="test", on_closed=lambda _: None)

    with pytest.raises(BrokerUnreachable, match=remedy):
        asyncio.run(run())


@in_loop
async def test_a_connection_closes_in_order_and_says_so(broker: BrokerUnderTest) -> None:
    reasons: list[Exception] = []
    connection = await open_connection(BrokerSettings.parse(broker.amqp_url), name="test", on_closed=reasons.append)
    await open_channel(connection, timeout_seconds=SECONDS)
    await close_connection(connection, timeout_seconds=SECONDS)
    assert connection.is_closed
    assert len(reasons) == 1


@pytest.mark.parametrize("bad", [{"window_messages": 0}, {"window_bytes": 0}, {"confirm_timeout_seconds": 0}])
def test_a_window_that_cannot_work_is_refused(bad: dict[str, Any]) -> None:
    [name] = bad

    async def run() -> None:
        Publisher("amqp://guest:guest@127.0.0.1:5672/%2F", **bad)

    with pytest.raises(ConfigurationError, match=name):
        asyncio.run(run())
