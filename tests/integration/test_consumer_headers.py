"""Headers that other programs put on messages: none may change where a failed message goes, or how often."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pika
import psycopg
import pytest

from consuming import QUEUE, Shop, body, opened_shop
from outhaul.events import Event
from outhaul.metrics import Metrics
from support import BrokerUnderTest, poll


@pytest.fixture
def shop(broker: BrokerUnderTest, inbox_dsn: str) -> Iterator[Shop]:
    with opened_shop(broker, inbox_dsn) as shop:
        yield shop


def send(shop: Shop, content: bytes, **properties: Any) -> None:
    with shop.connection() as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("shop.events", "order.created", content, pika.BasicProperties(**properties))


def test_a_carbon_copy_header_sends_no_copy_of_a_failed_message(shop: Shop) -> None:
    """RabbitMQ routes by CC as by the routing key: republished, it would put the message back at once, and twice."""
    runs: list[int] = []

    def handle(message: Event, tx: psycopg.Connection[Any]) -> None:
        runs.append(message.data["order"])
        raise ValueError("no courier")

    send(shop, body({"order": 1})[1], headers={"CC": [QUEUE]})
    with shop.consumer(handle):
        letters = shop.wait_for_letters(1)
        assert len(letters) == 1
        poll(lambda: shop.depth(QUEUE) == 0 and shop.database.count("deliveries") == 0, what="nothing left")
    assert runs == [1, 1, 1]
    assert shop.depth(f"{QUEUE}.dlq") == 0


ODD = {
    "none": None,
    "yes": True,
    "big": 2**62,
    "exact": Decimal("-12.34"),
    "when": datetime(1970, 1, 1, tzinfo=UTC),
    "raw": b"\x00\xff",
    "text": "\u20ac" * 1000,
    "list": [1, "two", [3, {"four": None}]],
    "table": {"deep": {"deeper": {}}},
    "": "no name",
    "x-outhaul-failed": "many",
    "x-outhaul-reason": {"a": "table"},
    "x-outhaul-first-failed-at": 10**12,
    "x-outhaul-exchange": 7,
    "x-death": "once",
    "x-outhaul-force": "perhaps",
}


@pytest.mark.parametrize("failing", [True, False])
def test_odd_headers_neither_stop_the_consumer_nor_lose_the_message(shop: Shop, *, failing: bool) -> None:
    def handle(message: Event, tx: psycopg.Connection[Any]) -> None:
        if failing and message.data["order"] < 100:
            raise ValueError("no courier")
        tx.execute("INSERT INTO effects (number) VALUES (%s)", (message.data["order"],))

    for number, (name, value) in enumerate(ODD.items()):
        send(shop, body({"order": number})[1], headers={name: value})
    send(shop, body({"order": 98})[1], headers=ODD, message_id="x" * 255, content_encoding="gzip", priority=255)
    send(shop, body({"order": 99})[1], expiration="60000", timestamp=2**63, type="t", reply_to="r", user_id=None)
    send(shop, body({"order": 100})[1])
    metrics = Metrics()
    with shop.consumer(handle, metrics=metrics):
        if failing:
            assert len(shop.wait_for_letters(len(ODD) + 2)) == len(ODD) + 2
        poll(lambda: len(shop.database.effects()) == (1 if failing else len(ODD) + 3), what="the effects")
    assert 'outhaul_connections_lost_total{role="consumer"} 0.0' in metrics.exposition()[0].decode()
