"""Faults at random, and then the ledger: every committed row is in the queue, and none is marked that is not."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from outhaul.sender import Sender
from outhaul.sending.sender_settings import SenderSettings
from support import BrokerUnderTest, apoll
from support_amqp import Amqp, through_port
from support_outbox import EXCHANGE, KEY, QUEUE, message, pending, record, sent_ids
from support_proxy import Proxy

ROUNDS = 25
SETTINGS = SenderSettings(
    poll_seconds=0.1,
    confirm_timeout_seconds=0.4,
    lease_seconds=5.5,
    statement_timeout_seconds=1,
    window_messages=50,
    claim_rows=100,
    drain_seconds=2,
)


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_fails_every_row_is_sent_and_none_is_marked_that_is_not_in_the_queue(
    seed: int, outbox_dsn: str, broker: BrokerUnderTest
) -> None:
    asyncio.run(_run(random.Random(seed), outbox_dsn, broker))


async def _run(rng: random.Random, dsn: str, broker: BrokerUnderTest) -> None:
    amqp_parts, dsn_parts = urlsplit(broker.amqp_url), urlsplit(dsn)
    with ExitStack() as stack:
        amqp = stack.enter_context(Amqp(broker))
        to_broker = stack.enter_context(Proxy(amqp_parts.hostname or "", amqp_parts.port or 5672))
        to_database = stack.enter_context(Proxy(dsn_parts.hostname or "", dsn_parts.port or 5432))
        amqp.exchange(EXCHANGE)
        amqp.queue(QUEUE, (EXCHANGE, KEY))
        url = through_port(broker.amqp_url, to_broker.port)
        through = dsn_parts._replace(netloc=f"{dsn_parts.netloc.rpartition('@')[0]}@127.0.0.1:{to_database.port}")
        faults = _faults(amqp, to_broker, to_database)
        recorded = []
        one = Sender(dsn=through.geturl(), amqp_url=url, settings=SETTINGS, name="one")
        two = Sender(dsn=dsn, amqp_url=url, settings=SETTINGS, name="two")
        async with one, two:
            for number in range(ROUNDS):
                recorded += record(dsn, *[message(100 * number + n) for n in range(rng.randrange(60))])
                await asyncio.to_thread(rng.choice(faults))
                await _lasts(rng.random() * 0.5)
            await asyncio.to_thread(_mend, amqp, to_broker, to_database)
            await apoll(lambda: pending(dsn) == 0, seconds=60, what="everything to be sent")
        queued = {properties.message_id for properties, _ in amqp.take(QUEUE, amqp.depth(QUEUE))}
    assert sorted(sent_ids(dsn)) == sorted(each.message_id for each in recorded)
    assert queued == {str(each.message_id) for each in recorded}
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT max(attempts) FROM outbox_sent").fetchone() == (0,), "an outage spends no attempt"


async def _lasts(seconds: float) -> None:
    """Some faults last, some are over before anybody saw them: here the time is the matter, and nothing to poll for."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()


def _faults(amqp: Amqp, to_broker: Proxy, to_database: Proxy) -> list[Callable[[], Any]]:
    return [
        to_broker.reset,
        to_broker.stop,
        to_broker.blackhole,
        to_database.reset,
        to_database.stop,
        lambda: amqp.unbind(QUEUE, EXCHANGE, KEY),
        lambda: _mend(amqp, to_broker, to_database),
        lambda: _mend(amqp, to_broker, to_database),
        lambda: _mend(amqp, to_broker, to_database),
    ]


def _mend(amqp: Amqp, to_broker: Proxy, to_database: Proxy) -> None:
    amqp.bind(QUEUE, EXCHANGE, KEY)
    for proxy in (to_broker, to_database):
        proxy.heal()
        if not proxy.is_listening:
            proxy.start()
