"""Outboxes for tests: rows recorded and counted by plain SQL."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from outhaul import Outbox
from outhaul.message import Message
from outhaul.outbox import Recorded

EXCHANGE = "test.events"
KEY = "order.created"
QUEUE = "test.orders"


def message(number: int = 0, **changes: Any) -> Message:
    values: dict[str, Any] = {
        "type": "test.order.created.v1",
        "routing_key": KEY,
        "aggregate_id": str(number),
        "data": {"number": number},
    }
    return Message(**(values | changes))


def record(dsn: str, *messages: Message, exchange: str = EXCHANGE) -> list[Recorded]:
    """Commit rows, free to be taken."""
    with psycopg.connect(dsn) as conn:
        return Outbox(exchange=exchange).add(conn, *messages)


def rows(dsn: str, *columns: str) -> list[dict[str, Any]]:
    """The outbox, in order."""
    names = sql.SQL(", ").join(map(sql.Identifier, columns or ("message_id", "status", "attempts", "last_error")))
    with psycopg.connect(dsn, row_factory=dict_row) as conn:
        return conn.execute(sql.SQL("SELECT {} FROM outbox ORDER BY seq").format(names)).fetchall()


def pending(dsn: str) -> int:
    with psycopg.connect(dsn) as conn:
        row = conn.execute("SELECT count(*) FROM outbox").fetchone()
    return row[0] if row else 0


def sent_ids(dsn: str) -> list[UUID]:
    with psycopg.connect(dsn) as conn:
        return [row[0] for row in conn.execute("SELECT message_id FROM outbox_sent ORDER BY seq")]
