"""A broker that answers too late: what a channel holds that nobody listens to any more must go back to the queue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
import pytest

from consuming import QUEUE, Shop, opened_shop
from outhaul.consuming import link
from outhaul.events import Event
from support import BrokerUnderTest, poll
from support_amqp import through_port
from support_proxy import Proxy


@pytest.fixture
def shop(broker: BrokerUnderTest, inbox_dsn: str) -> Iterator[Shop]:
    with opened_shop(broker, inbox_dsn) as shop:
        yield shop


def note(message: Event, tx: psycopg.Connection[Any]) -> None:
    tx.execute("INSERT INTO effects (number) VALUES (%s)", (message.data["order"],))


def held(shop: Shop) -> int:
    """Messages of the queue, those unacknowledged included."""
    with shop.management() as api:
        described = api.get(f"/api/queues/{quote(shop.broker.vhost, safe='')}/{QUEUE}").json()
    return int(described["messages"])


def test_a_channel_whose_broker_answers_too_late_keeps_no_message(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(link, "RPC_SECONDS", 0.5)
    parts = urlsplit(shop.broker.amqp_url)
    with (
        Proxy(parts.hostname or "", parts.port or 0) as proxy,
        shop.consumer(note, amqp_url=through_port(shop.broker.amqp_url, proxy.port)) as consumer,
    ):
        shop.send(50)
        poll(lambda: len(shop.database.effects()) == 50, seconds=20, what="50 effects")
        with shop.database.read_only():
            proxy.delay(1.0)
            shop.send(10, first=51)
            # It cancels its subscription, with messages in its hands, and the answer comes too late.
            poll(lambda: "no answer within" in caplog.text, seconds=20, what="an answer that is too late")
            proxy.delay(0.0)
        poll(lambda: len(shop.database.effects()) == 60, seconds=20, what="60 effects")
        poll(lambda: held(shop) == 0, seconds=10, what="a queue in which nothing is unacknowledged")
        poll(lambda: consumer.active, what="a consumer that is subscribed")
    assert shop.database.effects() == list(range(1, 61))
