"""A consumer of one's own: a model, a handler, a message that is turned away.

    uv run python examples/04_consumer.py --declare     # once: queues, bindings, policies, and the waybills table
    uv run python examples/04_consumer.py               # consume until Ctrl-C

A message takes effect once however often it comes, because the handler's transaction holds the inbox row as well.
"""

from __future__ import annotations

import os
import sys
from uuid import UUID

import psycopg
from pydantic import BaseModel, Field

from outhaul import Consumer, Event, Reject, Retry
from outhaul.broker_admin.topology_apply import apply
from outhaul.topology import consumer_topology

DATABASE_URL = os.environ["WAYBILL_DATABASE_URL"]
AMQP_URL = os.environ["AMQP_URL"]
QUEUE = "shop.waybill"
RETRY_DELAYS_SECONDS = (5, 30, 300)

WAYBILLS_TABLE = """
CREATE TABLE IF NOT EXISTS waybills (
    order_id uuid        PRIMARY KEY,
    customer text        NOT NULL,
    parcels  integer     NOT NULL,
    made_at  timestamptz NOT NULL DEFAULT clock_timestamp()
)"""
PARCEL_HOLDS = 10
LARGEST_ORDER = 500


class OrderCreated(BaseModel):
    """What this service needs of the message. Data that does not fit goes to the dead letters as `invalid-data`."""

    order_id: UUID
    customer: str
    quantity: int = Field(gt=0)


consumer = Consumer(
    "shipping",
    queue=QUEUE,
    dsn=DATABASE_URL,
    amqp_url=AMQP_URL,
    retry=Retry(delays=RETRY_DELAYS_SECONDS, max_attempts=8),
)


@consumer.handler("shop.order.created.v1", data=OrderCreated)
def make_waybill(message: Event, tx: psycopg.Connection) -> None:
    order: OrderCreated = message.data
    if order.quantity > LARGEST_ORDER:
        raise Reject(f"no van takes {order.quantity} pieces")  # to the dead letters at once
    parcels = -(-order.quantity // PARCEL_HOLDS)
    tx.execute(
        "INSERT INTO waybills (order_id, customer, parcels) VALUES (%s, %s, %s)",
        (order.order_id, order.customer, parcels),
    )  # no commit: the consumer commits this together with the inbox row. Any other error: tried again later.


def declare() -> None:
    """What a deployment does, with rights the consumer does not need."""
    topology = consumer_topology(
        QUEUE, bindings=[("shop.events", "order.created")], retry_delays_seconds=RETRY_DELAYS_SECONDS
    )
    apply(topology, AMQP_URL, os.environ["MANAGEMENT_URL"])
    with psycopg.connect(DATABASE_URL) as conn:
        conn.execute(WAYBILLS_TABLE)


if __name__ == "__main__":
    if sys.argv[1:] == ["--declare"]:
        declare()
    else:
        consumer.run()
