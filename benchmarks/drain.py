"""Draining an outbox through confirms, beside publishing the same messages from memory with a bare pika window.

The baseline does the least that is still right: mandatory, persistent, a window of 500 confirms, and no database.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pika
import psycopg
from parts import Figure, Servers, broker, database
from pika.adapters.asyncio_connection import AsyncioConnection

from outhaul.broker_admin.topology_apply import apply
from outhaul.database.outbox_store import OutboxStore
from outhaul.events import CLOUDEVENTS_JSON
from outhaul.sender import Sender
from outhaul.settings import ManagementSettings
from outhaul.topology import consumer_topology

WINDOW = 500
EXCHANGE, ROUTING_KEY, QUEUE, TYPE = "bench.events", "order.created", "bench.waybill", "bench.order.created.v1"
PAYLOAD = (
    b'{"order_id":"01a208d1-483e-7306-9b82-c5c8215115ab","customer":"ada","lines":[{"sku":"A-1","quantity":2,'
    b'"unit_price_cents":1999},{"sku":"B-7","quantity":1,"unit_price_cents":450}],"total_cents":4448}'
)
_FILL = """
INSERT INTO outbox (exchange, routing_key, type, source, aggregate_id, payload)
SELECT %s, %s, %s, 'bench', gen_random_uuid()::text, %s FROM generate_series(1, %s)"""


def declare(parts: Servers) -> None:
    """The real topology: quorum queue, policies, limits high enough for the run."""
    topology = consumer_topology(QUEUE, bindings=[(EXCHANGE, ROUTING_KEY)], max_length=10_000_000)
    apply(topology, broker(parts), ManagementSettings.parse(parts.management_url))


def purge(parts: Servers, queue: str = QUEUE) -> None:
    """Empty the queue between rounds."""
    with pika.BlockingConnection(pika.URLParameters(parts.amqp_url)) as connection:
        connection.channel().queue_purge(queue)


def fill(url: str, count: int) -> None:
    """Rows as a producer leaves them, free at once."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(_FILL, (EXCHANGE, ROUTING_KEY, TYPE, PAYLOAD, count))
        conn.execute("VACUUM ANALYZE outbox")
        conn.execute("CHECKPOINT")


async def drain_seconds(parts: Servers, url: str, count: int) -> float:
    """From the sender's start until the last row is marked sent."""
    async with Sender(dsn=url, amqp_url=parts.amqp_url) as sender:
        began = time.perf_counter()
        while sender.state().sent < count:
            await asyncio.sleep(0.01)
        return time.perf_counter() - began


async def messages(url: str, count: int) -> list[tuple[str, bytes]]:
    """The very messages a sender would publish, read into memory."""
    async with OutboxStore(database(url)) as store:
        return [(str(row.message_id), row.body()) for row in await store.claim(count, 1.0)]


async def raw_seconds(parts: Servers, bodies: list[tuple[str, bytes]], exchange: str = EXCHANGE) -> float:
    """Publish them with pika alone, as fast as a window of confirms allows."""
    publisher = await _RawPublisher.open(parts.amqp_url, bodies, exchange)
    began = time.perf_counter()
    publisher.pump()
    await publisher.done
    seconds = time.perf_counter() - began
    publisher.connection.close()
    return seconds


class _RawPublisher:
    def __init__(self, connection: Any, channel: Any, bodies: list[tuple[str, bytes]], exchange: str) -> None:
        self.connection = connection
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._channel = channel
        self._bodies = bodies
        self._exchange = exchange
        self._pending: set[int] = set()
        self._sent = 0
        self._low = 0

    @classmethod
    async def open(cls, url: str, bodies: list[tuple[str, bytes]], exchange: str) -> _RawPublisher:
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[Any] = loop.create_future()
        AsyncioConnection(pika.URLParameters(url), on_open_callback=opened.set_result, custom_ioloop=loop)
        connection = await opened
        ready: asyncio.Future[Any] = loop.create_future()
        connection.channel(on_open_callback=ready.set_result)
        channel = await ready
        self = cls(connection, channel, bodies, exchange)
        selected: asyncio.Future[Any] = loop.create_future()
        channel.confirm_delivery(self._answer, callback=selected.set_result)
        await selected
        return self

    def pump(self) -> None:
        while len(self._pending) < WINDOW and self._sent < len(self._bodies):
            message_id, body = self._bodies[self._sent]
            self._sent += 1
            self._pending.add(self._sent)
            self._channel.basic_publish(
                self._exchange,
                ROUTING_KEY,
                body,
                pika.BasicProperties(content_type=CLOUDEVENTS_JSON, delivery_mode=2, message_id=message_id, type=TYPE),
                mandatory=True,
            )

    def _answer(self, frame: Any) -> None:
        tag = frame.method.delivery_tag
        if frame.method.multiple:
            self._pending.difference_update(range(self._low + 1, tag + 1))
            self._low = tag
        else:
            self._pending.discard(tag)
        if not self._pending and self._sent == len(self._bodies):
            self.done.set_result(None)
        else:
            self.pump()


def run(parts: Servers, *, quick: bool) -> list[Figure]:
    """Three rounds of each, in turn, of 200,000 rows."""
    count = 20_000 if quick else 200_000
    figure = Figure(f"drain of {count:,} rows", "messages/s", goal=">= 0.80")
    declare(parts)
    for _ in range(3):
        url = parts.database("outbox")
        fill(url, count)
        bodies = asyncio.run(messages(url, count))
        figure.baseline.append(count / asyncio.run(raw_seconds(parts, bodies)))
        purge(parts)
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("TRUNCATE outbox")
        fill(url, count)
        figure.measured.append(count / asyncio.run(drain_seconds(parts, url, count)))
        purge(parts)
    return [figure]
