"""The ledger's eyes: both databases and every queue of a virtual host, as they are now."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import pika
import psycopg

from chaos.ledger import Order, Queued, Seen, Waybill
from support import BrokerUnderTest

DEAD_LETTERS = ".dlq"


def read(order_dsn: str, waybill_dsn: str, broker: BrokerUnderTest, *, keys: str = "%") -> Seen:
    """Read everything. Messages are looked at and left where they are. Raises the drivers' errors.

    ``keys`` (a LIKE pattern) leaves out the orders and waybills of other keys, but nothing that waits or is queued.
    """
    seen = Seen()
    with psycopg.connect(order_dsn) as conn:
        orders = "SELECT order_id, message_id, customer FROM orders WHERE customer LIKE %s"
        for order_id, message_id, customer in conn.execute(orders, (keys,)):
            seen.orders.append(Order(str(order_id), str(message_id), customer))
        for message_id, status in conn.execute("SELECT message_id, status FROM outbox"):
            (seen.parked if status == "parked" else seen.pending).append(str(message_id))
    with psycopg.connect(waybill_dsn) as conn:
        waybills = "SELECT order_id, customer FROM waybills WHERE customer LIKE %s"
        for order_id, customer in conn.execute(waybills, (keys,)):
            seen.waybills.append(Waybill(str(order_id), customer))
    found = queues(broker)
    connection = pika.BlockingConnection(pika.URLParameters(broker.amqp_url))
    try:
        for name in found:
            seen.queued += [Queued(name, message_id) for message_id in _ids_in(connection, name)]
    finally:
        # What was taken and not acknowledged goes back.
        connection.close()
    seen.hidden = {name: count for name, each in found.items() if (count := int(each.get("messages_dlx") or 0))}
    return seen


def backlog(order_dsn: str, broker: BrokerUnderTest) -> int:
    """Rows to be sent, and messages not in a dead-letter queue: ready, unacknowledged, or awaiting dead-lettering."""
    return _pending(order_dsn) + sum(sum(each.values()) for each in _waiting(broker).values())


def left_over(order_dsn: str, broker: BrokerUnderTest) -> dict[str, str]:
    """The same by place, as sentences would name it; empty when the backlog is zero. Raises the drivers' errors."""
    found = {"outbox": f"{rows} rows to be sent"} if (rows := _pending(order_dsn)) else {}
    for name, each in _waiting(broker).items():
        found[f"queue {name}"] = " and ".join(f"{count} messages {state}" for state, count in each.items() if count)
    return found


def _pending(order_dsn: str) -> int:
    with psycopg.connect(order_dsn) as conn:
        row = conn.execute("SELECT count(*) FROM outbox WHERE status = 'pending'").fetchone()
    assert row is not None
    return int(row[0])


def _waiting(broker: BrokerUnderTest) -> dict[str, dict[str, int]]:
    """By queue, what is to be done yet; queues in which nothing is are left out."""
    found = {}
    for name, each in queues(broker).items():
        counts = {"awaiting dead-lettering": int(each.get("messages_dlx") or 0)}
        if not name.endswith(DEAD_LETTERS):
            counts["unacknowledged"] = int(each.get("messages_unacknowledged") or 0)
            counts["ready"] = int(each.get("messages") or 0) - counts["unacknowledged"]
        if any(counts.values()):
            found[name] = counts
    return found


def queues(broker: BrokerUnderTest) -> dict[str, dict[str, Any]]:
    """The virtual host's queues as the management API describes them, by name. Raises httpx.HTTPError."""
    with httpx.Client(base_url=broker.management_url, timeout=10, trust_env=False) as api:
        answer = api.get(f"/api/queues/{quote(broker.vhost, safe='')}").raise_for_status()
    return {each["name"]: each for each in answer.json()}


def _ids_in(connection: Any, queue: str) -> list[str]:
    channel = connection.channel()
    ids: list[str] = []
    while True:
        method, properties, _ = channel.basic_get(queue, auto_ack=False)
        if method is None:
            return ids
        ids.append(str(properties.message_id))
