"""Consume and produce: the waybill service answers with a message, and the order service compensates.

    order service  --order.created-->  waybill service
    order service  <--waybill.made, waybill.rejected--  waybill service

A rejected order is a business outcome and no failure: the waybill service records `waybill.rejected` in the same
transaction as its inbox row, and the order service cancels the order in the same transaction as its own. Each service
has a database, a sender and a consumer. Here all four run in one process, to be short.
"""

from __future__ import annotations

import asyncio
import time
from uuid import UUID, uuid4

import psycopg
from pydantic import BaseModel
from shop import scratch

from outhaul import Consumer, Event, Message, Outbox, Sender
from outhaul.broker_admin.topology_apply import apply
from outhaul.topology import consumer_topology

ORDERS_TABLE = """
CREATE TABLE orders (
    order_id uuid    PRIMARY KEY,
    quantity integer NOT NULL,
    status   text    NOT NULL DEFAULT 'placed' CHECK (status IN ('placed', 'shipped', 'cancelled')),
    why      text
)"""
WAYBILLS_TABLE = "CREATE TABLE waybills (order_id uuid PRIMARY KEY, quantity integer NOT NULL)"
TOPOLOGY = consumer_topology("shop.waybill", bindings=[("shop.events", "order.created")]) | consumer_topology(
    "shop.order-status", bindings=[("shop.events", "waybill.made"), ("shop.events", "waybill.rejected")]
)
LARGEST_ORDER = 500
WAIT_SECONDS = 30.0

outbox = Outbox(exchange="shop.events")


class OrderCreated(BaseModel):
    order_id: UUID
    quantity: int


class WaybillMade(BaseModel):
    order_id: UUID


class WaybillRejected(BaseModel):
    order_id: UUID
    reason: str


def waybill_service(dsn: str, amqp_url: str) -> Consumer:
    """Makes a waybill or says why not."""
    consumer = Consumer("shipping", queue="shop.waybill", dsn=dsn, amqp_url=amqp_url)

    @consumer.handler("shop.order.created.v1", data=OrderCreated)
    def make_waybill(message: Event, tx: psycopg.Connection) -> None:
        order: OrderCreated = message.data
        if order.quantity > LARGEST_ORDER:
            rejected = WaybillRejected(order_id=order.order_id, reason=f"no van takes {order.quantity} pieces")
            outbox.add(tx, answer("waybill.rejected", rejected, order.order_id))
            return
        tx.execute("INSERT INTO waybills (order_id, quantity) VALUES (%s, %s)", (order.order_id, order.quantity))
        outbox.add(tx, answer("waybill.made", WaybillMade(order_id=order.order_id), order.order_id))

    return consumer


def answer(routing_key: str, data: BaseModel, order_id: UUID) -> Message:
    """Inside a handler, the message's cause and trace are filled in from the message being handled."""
    return Message(type=f"shop.{routing_key}.v1", routing_key=routing_key, aggregate_id=str(order_id), data=data)


def order_service(dsn: str, amqp_url: str, causes: list[str | None]) -> Consumer:
    """Learns what became of its orders."""
    consumer = Consumer("ordering", queue="shop.order-status", dsn=dsn, amqp_url=amqp_url)

    @consumer.handler("shop.waybill.made.v1", data=WaybillMade)
    def ship(message: Event, tx: psycopg.Connection) -> None:
        # The status in the WHERE makes a message that comes late harmless.
        tx.execute(
            "UPDATE orders SET status = 'shipped' WHERE order_id = %s AND status = 'placed'", (message.data.order_id,)
        )

    @consumer.handler("shop.waybill.rejected.v1", data=WaybillRejected)
    def cancel(message: Event, tx: psycopg.Connection) -> None:
        causes.append(message.causation_id)
        tx.execute(
            "UPDATE orders SET status = 'cancelled', why = %s WHERE order_id = %s AND status = 'placed'",
            (message.data.reason, message.data.order_id),
        )

    return consumer


async def place_order(conn: psycopg.AsyncConnection, quantity: int) -> UUID:
    """Returns the id of the message that the order caused."""
    order_id = uuid4()
    async with conn.transaction():
        await conn.execute("INSERT INTO orders (order_id, quantity) VALUES (%s, %s)", (order_id, quantity))
        message = Message(
            type="shop.order.created.v1",
            routing_key="order.created",
            aggregate_id=str(order_id),
            data=OrderCreated(order_id=order_id, quantity=quantity),
        )
        [recorded] = await outbox.add_async(conn, message)
    return recorded.message_id


async def until_answered(conn: psycopg.AsyncConnection) -> None:
    """Wait until no order is merely placed."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (await conn.execute("SELECT FROM orders WHERE status = 'placed' LIMIT 1")).rowcount:
        if time.monotonic() > deadline:
            raise TimeoutError(f"an order had no answer within {WAIT_SECONDS:g} s")
        await asyncio.sleep(0.02)


async def run(order_dsn: str, waybill_dsn: str, amqp_url: str) -> None:
    """Ten orders, three of them too large."""
    causes: list[str | None] = []
    async with (
        Sender(outbox, dsn=order_dsn, amqp_url=amqp_url, name="order service") as sender,
        Sender(outbox, dsn=waybill_dsn, amqp_url=amqp_url, name="waybill service"),
        waybill_service(waybill_dsn, amqp_url),
        order_service(order_dsn, amqp_url, causes),
        await psycopg.AsyncConnection.connect(order_dsn, autocommit=True) as conn,
    ):
        quantities = [1, 700, 3, 40, 501, 6, 500, 8, 9999, 10]
        messages = {quantity: await place_order(conn, quantity) for quantity in quantities}
        sender.wake()
        await until_answered(conn)
        rows = await conn.execute("SELECT quantity, status, why FROM orders ORDER BY quantity")
        print(f"{'quantity':>8}  {'status':9}  why")
        for quantity, status, why in await rows.fetchall():
            print(f"{quantity:>8}  {status:9}  {why or ''}")
    rejected = {str(message_id) for quantity, message_id in messages.items() if quantity > LARGEST_ORDER}
    print(f"\nevery rejection names the order's message as its cause: {set(causes) == rejected}")


def main() -> None:
    """Make the places, run, take them away."""
    with (
        scratch.database("example_05_orders", schema=["outbox", "inbox"], tables=[ORDERS_TABLE]) as order_dsn,
        scratch.database("example_05_waybills", schema=["outbox", "inbox"], tables=[WAYBILLS_TABLE]) as waybill_dsn,
        scratch.virtual_host("example-05") as amqp_url,
    ):
        apply(TOPOLOGY, amqp_url, scratch.from_environment("OUTHAUL_MANAGEMENT_URL"))
        asyncio.run(run(order_dsn, waybill_dsn, amqp_url))


if __name__ == "__main__":
    main()
