"""Turning messages into waybills with the consumer, beside a bare loop that does the same SQL in the same batches.

The baseline decodes, inserts inbox and waybill rows for a batch in one transaction and acks it with one ``multiple``
ack. It has no dead letters, retries, redelivery rules or shutdown: it is what such a loop must cost at least.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

import msgspec
import pika
import psycopg
from drain import PAYLOAD, messages, raw_seconds
from parts import Figure, Servers, broker

from outhaul.broker_admin.topology_apply import apply
from outhaul.consumer import Consumer
from outhaul.events import payload_hash
from outhaul.settings import ManagementSettings
from outhaul_waybill.making import make_waybills
from outhaul_waybill.models import ORDER_CREATED, OrderCreated, Parcel
from outhaul_waybill.queries import MAKE_WAYBILLS
from outhaul_waybill.topology import QUEUE, TOPOLOGY

BATCH, PREFETCH = 100, 500
_FILL = """
INSERT INTO outbox (exchange, routing_key, type, source, aggregate_id, payload)
SELECT 'outhaul.events', 'order.created', %s, 'bench', id::text,
       convert_to(replace(%s, '01a208d1-483e-7306-9b82-c5c8215115ab', id::text), 'UTF8')
FROM (SELECT gen_random_uuid() AS id FROM generate_series(1, %s)) AS made"""
_INBOX = """
INSERT INTO inbox (consumer, message_id, payload_hash)
SELECT %s, * FROM unnest(%s::uuid[], %s::bytea[]) ON CONFLICT DO NOTHING RETURNING message_id"""


class _Data(msgspec.Struct):
    id: UUID
    sequence: str
    data: OrderCreated


def publish(parts: Servers, count: int) -> None:
    """Put that many orders into the queue, each of its own."""
    url = parts.database("outbox")
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(_FILL, (ORDER_CREATED, PAYLOAD.decode(), count))
    asyncio.run(raw_seconds(parts, asyncio.run(messages(url, count)), "outhaul.events"))


def waybills(url: str) -> int:
    """How many there are."""
    with psycopg.connect(url) as conn:
        row = conn.execute("SELECT count(*) FROM waybills").fetchone()
    return row[0] if row else 0


def consumer_seconds(parts: Servers, url: str, count: int) -> float:
    """From the consumer's start until the last waybill."""
    consumer = Consumer(
        "bench",
        queue=QUEUE,
        dsn=url,
        amqp_url=parts.amqp_url,
        batch_size=BATCH,
        prefetch=PREFETCH,
        prepared_statements=True,
    )
    consumer.batch_handler(ORDER_CREATED, data=OrderCreated)(make_waybills)
    began = time.perf_counter()
    with consumer:
        while waybills(url) < count:
            time.sleep(0.1)
        return time.perf_counter() - began


def loop_seconds(parts: Servers, url: str, count: int) -> float:
    """The bare loop, over the same client library."""
    connection = pika.BlockingConnection(pika.URLParameters(parts.amqp_url))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=PREFETCH)
    decode = msgspec.json.Decoder(_Data).decode
    encode = msgspec.json.Encoder().encode
    done = 0
    batch: list[tuple[bytes, _Data]] = []

    def flush(tag: int) -> None:
        nonlocal done
        batch.sort(key=lambda pair: pair[1].id)
        with conn.transaction():
            hashes = [payload_hash(body) for body, _ in batch]
            conn.execute(_INBOX, ("loop", [event.id for _, event in batch], hashes))
            conn.execute(
                MAKE_WAYBILLS,
                {
                    "order_ids": [event.data.order_id for _, event in batch],
                    "customers": [event.data.customer for _, event in batch],
                    "lines": [
                        encode([Parcel(line.sku, line.quantity) for line in event.data.lines]).decode()
                        for _, event in batch
                    ],
                    "message_ids": [event.id for _, event in batch],
                    "sequences": [int(event.sequence) for _, event in batch],
                },
            )
        channel.basic_ack(tag, multiple=True)
        done += len(batch)
        batch.clear()
        if done >= count:
            channel.stop_consuming()

    def on_message(_: Any, method: Any, __: Any, body: bytes) -> None:
        batch.append((body, decode(body)))
        if len(batch) == BATCH or done + len(batch) == count:
            flush(method.delivery_tag)

    with psycopg.connect(url, autocommit=True) as conn:
        began = time.perf_counter()
        channel.basic_consume(QUEUE, on_message)
        channel.start_consuming()
        seconds = time.perf_counter() - began
    connection.close()
    return seconds


def run(parts: Servers, *, quick: bool) -> list[Figure]:
    """Three rounds of each, in turn, of 100,000 messages."""
    count = 10_000 if quick else 100_000
    apply(TOPOLOGY, broker(parts), ManagementSettings.parse(parts.management_url))
    figure = Figure(f"consume {count:,} into waybills", "messages/s", goal=">= 0.70")
    for _ in range(3):
        publish(parts, count)
        figure.baseline.append(count / loop_seconds(parts, parts.database("inbox", "waybill"), count))
        publish(parts, count)
        figure.measured.append(count / consumer_seconds(parts, parts.database("inbox", "waybill"), count))
    return [figure]
