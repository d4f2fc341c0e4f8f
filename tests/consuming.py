"""What the consumer suites share: messages as a sender makes them, and a look into the consumer database."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from outhaul import events
from outhaul.delivery import Delivery

TYPE = "shop.order.created.v1"


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


def prepare(dsn: str) -> Database:
    """The effects of handlers go into ``effects (number, note)``; a number twice shows in it twice."""
    database = Database(dsn)
    database.query("CREATE TABLE effects (number bigint NOT NULL, note text)")
    database.query("CREATE TABLE singles (number bigint PRIMARY KEY)")
    return database
