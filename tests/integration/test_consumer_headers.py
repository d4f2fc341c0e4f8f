"""Headers that other programs put on messages: none may change where a failed message goes, or how often."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pika
import psycopg
import pytest

from consuming import QUEUE, Shop, body, opened_shop
from outhaul import Reject
from outhaul.alerts import Alerter
from outhaul.events import Event
from outhaul.metrics import Metrics
from outhaul.settings import BrokerSettings
from outhaul.tools.dlq import DeadLetterQueue
from support import BrokerUnderTest, poll
from webhook_support import webhook


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


ODD: dict[str, Any] = {
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


class RawHeaders(pika.BasicProperties):  # type: ignore[misc]  # pika is untyped
    """A message with one header, its value given as the bytes that go on the wire."""

    def __init__(self, value: bytes, **properties: Any) -> None:
        super().__init__(**properties)
        self.value = value

    def encode(self) -> list[bytes]:
        field = b"\x03odd" + self.value
        message_id = self.message_id.encode()
        flags = struct.pack(">H", self.FLAG_HEADERS | self.FLAG_MESSAGE_ID)
        return [flags, struct.pack(">I", len(field)), field, bytes((len(message_id),)), message_id]


UNREADABLE = {
    "a timestamp in milliseconds": b"T" + struct.pack(">Q", 1_790_000_000_000),
    "a timestamp past all time": b"T" + struct.pack(">Q", 2**63),
}


@pytest.mark.parametrize("value", UNREADABLE.values(), ids=UNREADABLE)
def test_a_message_with_headers_that_cannot_be_read_is_handled_all_the_same(shop: Shop, value: bytes) -> None:
    metrics = Metrics()

    def handle(message: Event, tx: psycopg.Connection[Any]) -> None:
        if message.data["order"] == 1:
            raise Reject("no courier")
        tx.execute("INSERT INTO effects (number) VALUES (%s)", (message.data["order"],))

    event_id, content = body({"order": 1})
    with shop.connection() as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("shop.events", "order.created", content, RawHeaders(value, message_id=str(event_id)))
    send(shop, body({"order": 2})[1])
    with shop.consumer(handle, metrics=metrics):
        poll(lambda: shop.database.effects() == [2], what="the effect behind it")
        [(headers, _)] = shop.wait_for_letters(1)
    assert headers["x-outhaul-reason"] == "rejected"
    assert 'outhaul_connections_lost_total{role="consumer"} 0.0' in metrics.exposition()[0].decode()


@pytest.mark.parametrize("value", UNREADABLE.values(), ids=UNREADABLE)
def test_a_dead_letter_with_headers_that_cannot_be_read_can_be_listed(shop: Shop, value: bytes) -> None:
    with shop.connection() as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("outhaul.dlx", QUEUE, b"{}", RawHeaders(value, message_id="odd"))
    with DeadLetterQueue(BrokerSettings.parse(shop.broker.amqp_url), f"{QUEUE}.dlq") as letters:
        assert [letter.message_id for letter in letters.letters()] == ["odd"]


def test_properties_that_are_no_text_do_not_keep_a_failed_message_from_its_tier(shop: Shop) -> None:
    runs: list[int] = []

    def handle(message: Event, tx: psycopg.Connection[Any]) -> None:
        runs.append(message.data["order"])
        raise ValueError("no courier")

    odd = b"\xff\xfe"
    send(shop, body({"order": 1})[1], message_id=odd, type=odd, content_type=odd)
    with shop.consumer(handle):
        [(headers, _)] = shop.wait_for_letters(1)
    assert headers["x-outhaul-reason"] == "exhausted"
    assert runs == [1, 1, 1]


def test_a_failed_message_whose_headers_leave_no_room_for_more_is_a_dead_letter_people_are_told_of(shop: Shop) -> None:
    """Headers travel in one frame (128 KiB): with what is written of the failure, these would not fit."""

    def handle(message: Event, tx: psycopg.Connection[Any]) -> None:
        if message.data["order"] == 1:
            raise ValueError("no courier")
        tx.execute("INSERT INTO effects (number) VALUES (%s)", (message.data["order"],))

    send(shop, body({"order": 1})[1], headers={"big": "x" * 130_900})
    send(shop, body({"order": 2})[1])
    with webhook() as told:
        alerter = Alerter(told.url, group_wait_seconds=0.05)
        with shop.consumer(handle, alerter=alerter):
            [(headers, _)] = shop.wait_for_letters(1)
            poll(lambda: told.names() == {"OuthaulDeadLetter"}, what="the alert")
            poll(lambda: shop.database.effects() == [2], what="the effect behind it")
        alerter.close()
    assert headers["x-death"][0]["reason"] == "rejected"
