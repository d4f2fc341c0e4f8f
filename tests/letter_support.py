"""A queue with its dead-letter queue, and letters in it, for the suites that read and move them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pika
import psycopg

from outhaul import deadletter
from outhaul.ids import first_at
from support import BrokerUnderTest, poll

QUEUE, DLQ = "shop.waybill", "shop.waybill.dlq"
TYPE = "shop.order.created.v1"


def new_id(age: timedelta = timedelta(0)) -> UUID:
    """A UUIDv7 of that age."""
    head = first_at(datetime.now(UTC) - age).int
    return UUID(int=head | 0x7 << 76 | 0x2 << 62 | uuid4().int & 0x0FFF_FFFF_FFFF_FFFF)


@dataclass
class Shop:
    """A channel on a virtual host that has the two queues."""

    broker: BrokerUnderTest
    channel: Any

    def letter(
        self,
        message_id: UUID | None = None,
        *,
        reason: str = "rejected",
        type_: str = TYPE,
        subject: str = "order-1",
        body: bytes | None = None,
        headers: dict[str, Any] | None = None,
    ) -> UUID:
        """Put a letter into the dead-letter queue, as a consumer writes it; returns its id."""
        made = message_id or new_id()
        envelope = {
            "specversion": "1.0",
            "id": str(made),
            "type": type_,
            "source": "shop",
            "subject": subject,
            "data": {},
        }
        written = deadletter.Letter(
            reason=reason,
            error="Reject: no courier",
            failed=3,
            first_failed_at=datetime.now(UTC),
            last_failed_at=datetime.now(UTC),
            exchange="shop.events",
            routing_key="order.created",
            consumer="waybill",
        ).headers({"tenant": "north"})
        self.channel.basic_publish(
            "",
            DLQ,
            json.dumps(envelope).encode() if body is None else body,
            pika.BasicProperties(
                message_id=str(made),
                type=type_,
                delivery_mode=2,
                headers=written if headers is None else headers,
            ),
            mandatory=True,
        )
        return made

    def publish(self, message_id: UUID) -> None:
        """Publish a message as the sender does."""
        properties = pika.BasicProperties(message_id=str(message_id), delivery_mode=2)
        self.channel.basic_publish("shop.events", "order.created", b"{}", properties, mandatory=True)

    def depth(self, queue: str = DLQ) -> int:
        """Messages that are ready."""
        count: int = self.channel.queue_declare(queue, passive=True).method.message_count
        return count

    def take(self, queue: str) -> tuple[Any, Any, bytes] | None:
        """The next message, acknowledged; None when there is none."""
        method, properties, body = self.channel.basic_get(queue, auto_ack=True)
        return None if method is None else (method, properties, body)

    def take_all(self, queue: str, expected: int) -> list[tuple[Any, Any, bytes]]:
        """Every message, once the expected number has come."""
        taken: list[tuple[Any, Any, bytes]] = []

        def enough() -> bool:
            while (message := self.take(queue)) is not None:
                taken.append(message)
            return len(taken) >= expected

        poll(enough, what=f"{expected} messages in {queue}")
        assert len(taken) == expected
        return taken

    def ids(self, queue: str, expected: int) -> set[str]:
        """The ids of all messages in the queue, which are taken."""
        return {str(properties.message_id) for _, properties, _ in self.take_all(queue, expected)}


@contextmanager
def connected(broker: BrokerUnderTest) -> Iterator[Shop]:
    """A channel with confirms on the test's virtual host."""
    connection = pika.BlockingConnection(pika.URLParameters(broker.amqp_url))
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        yield Shop(broker, channel)
    finally:
        connection.close()


@contextmanager
def open_shop(broker: BrokerUnderTest, *, bound: bool = True) -> Iterator[Shop]:
    """As above, with the two queues and the retry exchange; ``bound``: redriven messages find the queue."""
    with connected(broker) as shop:
        channel = shop.channel
        channel.exchange_declare("outhaul.retry", "direct", durable=True)
        channel.exchange_declare("shop.events", "topic", durable=True)
        unlimited = {"x-delivery-limit": -1} if broker.version >= (4, 0) else {}
        channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        channel.queue_declare(DLQ, durable=True, arguments={"x-queue-type": "quorum", **unlimited})
        if bound:
            channel.queue_bind(QUEUE, "outhaul.retry", QUEUE)
        channel.queue_bind(QUEUE, "shop.events", "order.created")
        yield shop


def rows(dsn: str, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """What a query gives."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        return conn.execute(query.encode(), parameters).fetchall()
