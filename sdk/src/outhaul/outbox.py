"""The outbox row is written in the caller's transaction, or not at all.

`Outbox` is pure: it holds no connection and reads no environment. ``add()`` never commits; what makes the message exist
is the commit of the business row beside it. Nothing is handed to the broker here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, LiteralString, NamedTuple, Protocol
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from outhaul.context import current_cause
from outhaul.database import outbox_queries as queries
from outhaul.errors import TransactionRequired
from outhaul.message import Message, check_name
from outhaul.tracing import current_traceparent

_OTHERS = (
    "use add() for a psycopg.Connection, add_async() for a psycopg.AsyncConnection, "
    "and outhaul.sqlalchemy for SQLAlchemy"
)


class Lease(Protocol):
    """A sender's promise to take the row over at commit: it is written leased instead of free."""

    @property
    def token(self) -> UUID:
        """Names the holder in the row; new for every lease."""

    @property
    def lease_seconds(self) -> float:
        """How long the row is the holder's, by the database's clock."""


class Recorded(NamedTuple):
    """What the database gave a recorded message. It exists once the caller's transaction commits."""

    message_id: UUID
    seq: int
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbox:
    """Where messages are recorded, beside the business rows that cause them.

    ``exchange`` is the one messages go to unless they name their own; ``source`` the CloudEvents source, by default the
    exchange's name. Thread-safe and shareable: it has no state.
    """

    exchange: str
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse an exchange that cannot be named on the wire."""
        check_name("Outbox.exchange", self.exchange)
        if not self.source:
            object.__setattr__(self, "source", self.exchange)
        check_name("Outbox.source", self.source)

    def add(self, conn: psycopg.Connection[Any], *messages: Message, lease: Lease | None = None) -> list[Recorded]:
        """Record messages in the connection's transaction, in order; one round trip for all of them.

        Raises TransactionRequired on an autocommit connection outside a transaction block: the message would
        otherwise be committed apart from what it tells of.
        """
        if not isinstance(conn, psycopg.Connection):
            raise TypeError(f"add() takes a psycopg.Connection, not {type(conn).__qualname__}; {_OTHERS}")
        _require_transaction(conn)
        if not messages:
            return []
        # Not conn.execute(): the connection's own cursor class and row factory are the caller's, and may be any.
        cursor = psycopg.Cursor(conn, row_factory=tuple_row)
        cursor.execute(queries.INSERT_MANY, self.parameters(messages, lease), binary=True)
        return [Recorded(*row) for row in cursor.fetchall()]

    async def add_async(
        self, conn: psycopg.AsyncConnection[Any], *messages: Message, lease: Lease | None = None
    ) -> list[Recorded]:
        """As ``add``, for an async connection."""
        if not isinstance(conn, psycopg.AsyncConnection):
            raise TypeError(f"add_async() takes a psycopg.AsyncConnection, not {type(conn).__qualname__}; {_OTHERS}")
        _require_transaction(conn)
        if not messages:
            return []
        cursor = psycopg.AsyncCursor(conn, row_factory=tuple_row)
        await cursor.execute(queries.INSERT_MANY, self.parameters(messages, lease), binary=True)
        return [Recorded(*row) for row in await cursor.fetchall()]

    def statement(
        self, message: Message, *, when: LiteralString = "true", lease: Lease | None = None
    ) -> tuple[LiteralString, dict[str, Any]]:
        """One message as an INSERT to stand as a CTE in a statement of your own, for a single round trip.

        ``when`` is a condition over your other CTEs (``EXISTS (SELECT FROM new_order)``). Returns the SQL, which yields
        ``message_id, seq, created_at``, and its named parameters, all prefixed ``outbox_``.
        """
        cause = current_cause()
        return _insert_one(when), {
            "outbox_exchange": message.exchange or self.exchange,
            "outbox_routing_key": message.routing_key,
            "outbox_type": message.type,
            "outbox_source": self.source,
            "outbox_aggregate_id": message.aggregate_id,
            "outbox_payload": message.payload(),
            "outbox_content_type": message.content_type,
            "outbox_headers": json.dumps(dict(message.headers)) if message.headers else "{}",
            "outbox_causation_id": message.causation_id or (cause.causation_id if cause else None),
            "outbox_traceparent": message.traceparent or current_traceparent(),
            "outbox_lease_token": lease.token if lease else None,
            "outbox_lease_seconds": lease.lease_seconds if lease else 0.0,
        }

    def parameters(self, messages: Sequence[Message], lease: Lease | None = None) -> dict[str, Any]:
        """The parameters of INSERT_MANY: a column of values a name."""
        cause = current_cause()
        causation, trace = (cause.causation_id if cause else None), current_traceparent()
        return {
            "exchange": [m.exchange or self.exchange for m in messages],
            "routing_key": [m.routing_key for m in messages],
            "type": [m.type for m in messages],
            "source": [self.source] * len(messages),
            "aggregate_id": [m.aggregate_id for m in messages],
            "payload": [m.payload() for m in messages],
            "content_type": [m.content_type for m in messages],
            "headers": [json.dumps(dict(m.headers)) if m.headers else "{}" for m in messages],
            "causation_id": [m.causation_id or causation for m in messages],
            "traceparent": [m.traceparent or trace for m in messages],
            "lease_token": lease.token if lease else None,
            "lease_seconds": lease.lease_seconds if lease else 0.0,
        }


@lru_cache(maxsize=64)
def _insert_one(when: LiteralString) -> LiteralString:
    return queries.INSERT_ONE_WHEN.format(columns=queries.INSERT_COLUMNS, when=when)


def _require_transaction(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    if conn.autocommit and conn.info.transaction_status == TransactionStatus.IDLE:
        raise TransactionRequired(
            "add() on an autocommit connection outside a transaction: the message would be committed without its "
            "business row; wrap both in `with conn.transaction():`"
        )
