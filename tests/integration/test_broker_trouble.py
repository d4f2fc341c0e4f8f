"""A broker of this suite's own in trouble: a memory alarm, a kill. What senders and consumers promise rests on it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from conftest import missing
from outbox_support import in_loop
from outhaul import Consumer, Event
from outhaul.broker_admin.topology_apply import apply
from outhaul.sender import Sender
from outhaul.sending.sender_settings import SenderSettings
from outhaul.topology import consumer_topology
from outhaul_local.failure import LocalFailure
from outhaul_local.rabbitmq import BrokerPorts, RabbitServer, find_binary
from outhaul_local.tether import Tether
from outhaul_operator.adapters.rabbitmq import RabbitBrokers
from outhaul_operator.ports import BrokerUrls
from outhaul_operator.snapshot import BrokerView
from support import BrokerUnderTest, apoll, poll
from support_amqp import Amqp
from support_outbox import EXCHANGE, KEY, QUEUE, message, pending, record, rows, sent_ids

SETTINGS = SenderSettings(poll_seconds=0.1, confirm_timeout_seconds=5, lease_seconds=12)


@pytest.fixture(scope="module")
def server(servers_folder: Path, tether: Tether) -> Iterator[RabbitServer]:
    """A node that may be put into any trouble."""
    binary = find_binary(os.environ.get("OUTHAUL_RABBITMQ_SERVER"))
    if binary is None:
        missing("rabbitmq-server")
        return
    node = RabbitServer(
        binary=binary,
        folder=servers_folder / "rabbitmq-in-trouble",
        log=servers_folder / "rabbitmq-in-trouble.log",
        node=f"outhaul-trouble-{secrets.token_hex(4)}",
        password=secrets.token_hex(16),
        ports=BrokerPorts.choose(),
        statistics_interval_ms=500,
    )
    try:
        node.start()
    except LocalFailure as error:
        pytest.fail(f"RabbitMQ is installed but does not start: {error}")
    held(node, tether)
    yield node
    node.stop(keep_data=False)


def held(node: RabbitServer, tether: Tether) -> None:
    if node.process is not None:
        tether.hold(node.process, epmd_port=node.ports.epmd)


@pytest.fixture
def broken_broker(server: RabbitServer) -> BrokerUnderTest:
    broker = BrokerUnderTest(server.amqp_url(), server.management_url(), "/", server.version())
    with Amqp(broker) as amqp:
        amqp.exchange(EXCHANGE)
        amqp.queue(QUEUE, (EXCHANGE, KEY))
        amqp.purge(QUEUE)
    return broker


def control(server: RabbitServer, *command: str) -> None:
    """`rabbitmqctl` on that node."""
    program = server.binary.parent / "rabbitmqctl"
    if not program.exists():
        missing("rabbitmqctl beside rabbitmq-server")
    subprocess.run(
        [program, "-n", f"{server.node}@localhost", *command],
        env=server._environment(),
        check=True,
        capture_output=True,
        timeout=60,
        cwd=server.folder,
        **server.identity.spawn_as(),
    )


def memory_alarm(server: RabbitServer) -> None:
    control(server, "set_vm_memory_high_watermark", "absolute", "1MB")


def no_memory_alarm(server: RabbitServer) -> None:
    control(server, "set_vm_memory_high_watermark", "0.4")


def kill(server: RabbitServer) -> None:
    """As if its machine had lost power, once what was declared is on its disk.

    RabbitMQ 3.10 answers a declaration a moment before that. About one kill in 200 came in between: the binding was
    gone from the broker's durable table, and the exchange's other queue made each message count as routed.
    """
    control(server, "eval", "catch mnesia:sync_log().")
    assert server.process is not None
    server.process.signal(signal.SIGKILL)
    server.stop()


def numbers(broker: BrokerUnderTest, at_least: int) -> list[int]:
    """What the messages in the queue are about; the queue is emptied."""
    with Amqp(broker) as amqp:
        depth = poll(lambda: (found := amqp.depth(QUEUE)) >= at_least and found, what=f"{at_least} messages")
        return [json.loads(body)["data"]["number"] for _, body in amqp.take(QUEUE, int(depth), seconds=30)]


@in_loop
async def test_through_a_memory_alarm_rows_are_recorded_and_wait_and_then_all_are_sent(
    server: RabbitServer, broken_broker: BrokerUnderTest, outbox_dsn: str
) -> None:
    async with Sender(dsn=outbox_dsn, amqp_url=broken_broker.amqp_url, settings=SETTINGS) as sender:
        record(outbox_dsn, message(0))
        await apoll(lambda: pending(outbox_dsn) == 0, what="the first message sent")
        memory_alarm(server)
        try:
            record(outbox_dsn, *(message(n) for n in range(1, 1501)))
            await apoll(lambda: sender.state().broker == "blocked", what="the sender told of the alarm")
            record(outbox_dsn, *(message(n) for n in range(1501, 2001)))
            # Blocked after the first publishes: at most a window is on its way, and no more is claimed.
            await asyncio.to_thread(still_waiting, outbox_dsn, 1000)
        finally:
            no_memory_alarm(server)
        await apoll(lambda: pending(outbox_dsn) == 0, seconds=60, what="the backlog sent")
    assert set(numbers(broken_broker, 2001)) == set(range(2001))


@in_loop
async def test_an_alarm_is_named_by_the_operators_look(server: RabbitServer, broken_broker: BrokerUnderTest) -> None:
    operator = RabbitBrokers(timeout_seconds=5, keep_seconds=0)
    urls = BrokerUrls(amqp=broken_broker.amqp_url, management=broken_broker.management_url)

    async def alarms() -> tuple[str, ...]:
        view = await operator.look(urls)
        assert isinstance(view, BrokerView), view
        return view.alarms

    try:
        assert await alarms() == ()
        memory_alarm(server)
        try:
            [told] = await apoll(alarms, what="the alarm")
            assert told.startswith(f"the memory alarm is on at node {server.node}")
        finally:
            no_memory_alarm(server)
        await apoll(lambda: is_quiet(alarms), what="the alarm's end")
    finally:
        await operator.close()


async def is_quiet(alarms: Callable[[], Awaitable[tuple[str, ...]]]) -> bool:
    return not await alarms()


def still_waiting(dsn: str, at_least: int) -> None:
    found = rows(dsn, "status", "attempts")
    assert len(found) >= at_least
    assert {(row["status"], row["attempts"]) for row in found} == {("pending", 0)}


@in_loop
async def test_a_broker_killed_while_messages_are_sent_loses_none_that_it_confirmed(
    server: RabbitServer, broken_broker: BrokerUnderTest, outbox_dsn: str, tether: Tether
) -> None:
    async with Sender(dsn=outbox_dsn, amqp_url=broken_broker.amqp_url, settings=SETTINGS) as sender:
        record(outbox_dsn, *(message(n) for n in range(2000)))
        sender.wake()
        await apoll(lambda: sent_ids(outbox_dsn), what="the first sent")
        await asyncio.to_thread(kill, server)
        confirmed = len(sent_ids(outbox_dsn))
        record(outbox_dsn, *(message(n) for n in range(2000, 2500)))
        await apoll(lambda: sender.state().broker == "disconnected", what="the sender told of it")
        await asyncio.to_thread(server.start)
        held(server, tether)
        await apoll(lambda: pending(outbox_dsn) == 0, seconds=60, what="the backlog sent")
    assert confirmed > 0
    assert set(numbers(broken_broker, 2500)) == set(range(2500))


def test_a_consumer_outlives_its_broker_and_each_effect_stays_one(
    server: RabbitServer, broken_broker: BrokerUnderTest, outbox_dsn: str, inbox_dsn: str, tether: Tether
) -> None:
    apply(consumer_topology("trouble.effects", [(EXCHANGE, KEY)]), broken_broker.amqp_url, broken_broker.management_url)
    with psycopg.connect(inbox_dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE effects (number integer NOT NULL)")
        consumer = Consumer("trouble", queue="trouble.effects", dsn=inbox_dsn, amqp_url=broken_broker.amqp_url)

        @consumer.handler("test.order.created.v1")
        def effect(message: Event, tx: psycopg.Connection[Any]) -> None:
            tx.execute("INSERT INTO effects VALUES (%s)", (message.data["number"],))

        def effects() -> list[int]:
            return [number for (number,) in conn.execute("SELECT number FROM effects ORDER BY number")]

        def send(first: int, last: int) -> None:
            asyncio.run(sent(outbox_dsn, broken_broker.amqp_url, first, last))

        send(0, 1500)
        with consumer:
            poll(lambda: len(effects()) > 100, what="some effects")
            kill(server)
            poll(lambda: not consumer.active, what="the consumer told of it")
            server.start()
            held(server, tether)
            poll(lambda: len(effects()) >= 1500, seconds=60, what="all effects")
            send(1500, 1600)
            poll(lambda: len(effects()) >= 1600, seconds=30, what="those sent afterwards")
        assert effects() == list(range(1600))


async def sent(dsn: str, amqp_url: str, first: int, last: int) -> None:
    async with Sender(dsn=dsn, amqp_url=amqp_url, settings=SETTINGS) as sender:
        record(dsn, *(message(n) for n in range(first, last)))
        sender.wake()
        await apoll(lambda: pending(dsn) == 0, seconds=30, what="all sent")
