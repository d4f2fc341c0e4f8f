"""What the consumer suites share: messages as a sender makes them, and a look into the consumer database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, LiteralString
from uuid import UUID

import httpx
import pika
import psycopg
from psycopg import sql

from outhaul import Consumer, Retry, events
from outhaul.broker_admin.topology_apply import apply
from outhaul.consuming.delivery import Delivery
from outhaul.publisher import Outcome, Outgoing, Publisher
from outhaul.topology import consumer_topology
from support import BrokerUnderTest, poll

TYPE = "shop.order.created.v1"
QUEUE = "shop.waybill"
DELAYS = (0.2, 0.4)


def message_id(milliseconds_ago: int = 0, *, salt: int = 0) -> UUID:
    """A UUIDv7 of that time; other ``salt``, other id."""
    milliseconds = int(datetime.now(UTC).timestamp() * 1000) - milliseconds_ago
    return UUID(int=(milliseconds << 80) | (7 << 76) | (0b10 << 62) | (salt & (2**62 - 1)))


_count = iter(range(1, 10**9))


def body(
    data: Any, *, event_id: UUID | None = None, event_type: str = TYPE, traceparent: str | None = None
) -> tuple[UUID, bytes]:
    """One message on the wire, as the sender writes it."""
    number = next(_count)
    event_id = event_id or message_id(salt=number)
    encoded = events.encode(
        message_id=event_id,
        seq=number,
        event_type=event_type,
        source="shop",
        aggregate_id=f"order-{number}",
        created_at=datetime.now(UTC),
        payload=json.dumps(data).encode(),
        traceparent=traceparent,
    )
    return event_id, encoded


def delivery(data: Any = None, *, redelivered: bool = False, headers: Any = None, **envelope: Any) -> Delivery:
    """A delivery that never saw a broker."""
    event_id, encoded = body(data if data is not None else {"order": 1}, **envelope)
    return Delivery(
        encoded,
        exchange="shop.events",
        routing_key="order.created",
        redelivered=redelivered,
        headers=headers or {},
        message_id=str(event_id),
        type=TYPE,
    )


@dataclass(frozen=True)
class Database:
    """A consumer's database with a table of effects."""

    dsn: str

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn, autocommit=True)

    def query(self, query: LiteralString, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.connect() as conn:
            cursor = conn.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def count(self, table: LiteralString) -> int:
        [(count,)] = self.query("SELECT count(*) FROM " + table)
        return int(count)

    def effects(self) -> list[int]:
        return [row[0] for row in self.query("SELECT number FROM effects ORDER BY number")]

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Nothing can be written until the block ends."""
        name = sql.Identifier(self.dsn.rpartition("/")[2])
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        end_others = others + " AND pid <> pg_backend_pid()"
        with self.connect() as conn:
            conn.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
            conn.execute(end_others)
            try:
                yield
            finally:
                conn.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
                conn.execute(end_others)


def prepare(dsn: str) -> Database:
    """The effects of handlers go into ``effects (number, note)``; a number twice shows in it twice."""
    database = Database(dsn)
    database.query("CREATE TABLE effects (number bigint NOT NULL, note text)")
    database.query("CREATE TABLE singles (number bigint PRIMARY KEY)")
    return database


@dataclass
class Shop:
    """A broker with the consumer's topology, a database, and consumers that are closed at the end."""

    broker: BrokerUnderTest
    database: Database
    opened: list[Consumer] = field(default_factory=list)

    def consumer(self, handle: Callable[..., Any] | None = None, **settings: Any) -> Consumer:
        consumer = Consumer(
            "shipping",
            **{
                "queue": QUEUE,
                "dsn": self.database.dsn,
                "amqp_url": self.broker.amqp_url,
                "retry": Retry(delays=DELAYS, max_attempts=3),
                "shutdown_seconds": 5.0,
                **settings,
            },
        )
        if handle is not None:
            consumer.handler(TYPE)(handle)
        self.opened.append(consumer)
        return consumer

    def connection(self) -> pika.BlockingConnection:
        return pika.BlockingConnection(pika.URLParameters(self.broker.amqp_url))

    def publish(self, *bodies: bytes, exchange: str = "shop.events", routing_key: str = "order.created") -> None:
        """All of them, confirmed: unconfirmed ones can be lost when their channel is closed at once."""

        async def main() -> None:
            async with Publisher(self.broker.amqp_url, name="the shop") as publisher:
                sent = [
                    publisher.send(
                        Outgoing(number, exchange, routing_key, content, message_id=str(number)), timeout_seconds=30
                    )
                    for number, content in enumerate(bodies)
                ]
                assert {settled.outcome for settled in await asyncio.gather(*sent)} <= {Outcome.CONFIRMED}

        asyncio.run(main())

    def send(self, count: int, first: int = 1, **data: Any) -> None:
        self.publish(*(body({"order": number, **data})[1] for number in range(first, first + count)))

    def take(self, queue: str) -> list[tuple[Any, bytes]]:
        """All messages of a queue, taken out."""
        found: list[tuple[Any, bytes]] = []
        with self.connection() as connection:
            channel = connection.channel()
            while True:
                method, properties, content = channel.basic_get(queue, auto_ack=True)
                if method is None:
                    return found
                found.append((properties.headers or {}, content))

    def depth(self, queue: str) -> int:
        with self.connection() as connection:
            return int(connection.channel().queue_declare(queue, passive=True).method.message_count)

    def wait_for_letters(self, count: int) -> list[tuple[Any, bytes]]:
        poll(lambda: self.depth(f"{QUEUE}.dlq") >= count, what=f"{count} dead letters", seconds=20)
        return self.take(f"{QUEUE}.dlq")

    def management(self) -> httpx.Client:
        return httpx.Client(base_url=self.broker.management_url, timeout=30, trust_env=False)


@contextmanager
def opened_shop(broker: BrokerUnderTest, dsn: str) -> Iterator[Shop]:
    topology = consumer_topology(QUEUE, [("shop.events", "order.created")], retry_delays_seconds=DELAYS)
    apply(topology, broker.amqp_url, broker.management_url)
    shop = Shop(broker, prepare(dsn))
    try:
        yield shop
    finally:
        for consumer in shop.opened:
            consumer.close()
