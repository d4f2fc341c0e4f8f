"""Recorded messages that wait to be sent, read as values by whoever tests the code that recorded them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from outhaul import events
from outhaul.database.outbox_queries import ROW_COLUMNS

if TYPE_CHECKING:
    import sqlalchemy as sa
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    SyncTarget: TypeAlias = psycopg.Connection[Any] | Session | scoped_session[Any] | sa.Connection
    AsyncTarget: TypeAlias = psycopg.AsyncConnection[Any] | AsyncSession | async_scoped_session[Any] | AsyncConnection

_PENDING = f"SELECT {ROW_COLUMNS} FROM outbox WHERE status = 'pending' ORDER BY seq"  # noqa: S608 - constants only


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingMessage:
    """A message that is recorded and waits to be sent. ``body`` is what would travel; ``data`` is it, decoded."""

    id: UUID
    seq: int
    type: str
    exchange: str
    routing_key: str
    aggregate_id: str
    data: Any
    headers: Mapping[str, Any]
    causation_id: str | None
    traceparent: str | None
    created_at: datetime
    body: bytes = field(repr=False)


def chosen(messages: Sequence[PendingMessage], **wanted: str | None) -> list[PendingMessage]:
    """Those whose attributes are as wanted; None means any."""
    return [
        message
        for message in messages
        if all(value is None or getattr(message, name) == value for name, value in wanted.items())
    ]


def _messages(rows: Sequence[Sequence[Any]]) -> list[PendingMessage]:
    return [_pending(dict(zip(ROW_COLUMNS.split(", "), row, strict=True))) for row in rows]


def _pending(row: dict[str, Any]) -> PendingMessage:
    # Drivers differ: asyncpg gives jsonb as text, some give bytea as a memoryview.
    headers = json.loads(row["headers"]) if isinstance(row["headers"], str) else row["headers"]
    message_id = UUID(str(row["message_id"]))
    body = events.encode(
        message_id=message_id,
        seq=row["seq"],
        event_type=row["type"],
        source=row["source"],
        aggregate_id=row["aggregate_id"],
        created_at=row["created_at"],
        payload=bytes(row["payload"]),
        content_type=row["content_type"],
        causation_id=row["causation_id"],
        traceparent=row["traceparent"],
    )
    return PendingMessage(
        id=message_id,
        seq=row["seq"],
        type=row["type"],
        exchange=row["exchange"],
        routing_key=row["routing_key"],
        aggregate_id=row["aggregate_id"],
        data=events.decode(body).data,
        headers=headers,
        causation_id=row["causation_id"],
        traceparent=row["traceparent"],
        created_at=row["created_at"],
        body=body,
    )


def _refuse(conn: object, kind: type, way_out: str) -> None:
    if isinstance(conn, kind):
        raise TypeError(f"for a {kind.__module__}.{kind.__qualname__}, {way_out}")


def read(conn: SyncTarget) -> list[PendingMessage]:
    """The messages that wait to be sent, in order, as this connection sees them."""
    _refuse(conn, psycopg.AsyncConnection, "await outhaul.pending_async()")
    if isinstance(conn, psycopg.Connection):
        was_idle = conn.info.transaction_status == TransactionStatus.IDLE
        rows = psycopg.Cursor(conn, row_factory=tuple_row).execute(_PENDING).fetchall()
        if was_idle and not conn.autocommit:
            conn.rollback()  # it was opened by looking
        return _messages(rows)
    import sqlalchemy  # noqa: PLC0415 - an extra, which whoever has such a session has

    return _messages(conn.execute(sqlalchemy.text(_PENDING)).fetchall())


async def read_async(conn: AsyncTarget) -> list[PendingMessage]:
    """As ``read``."""
    _refuse(conn, psycopg.Connection, "use outhaul.pending()")
    if isinstance(conn, psycopg.AsyncConnection):
        was_idle = conn.info.transaction_status == TransactionStatus.IDLE
        cursor = await psycopg.AsyncCursor(conn, row_factory=tuple_row).execute(_PENDING)
        rows = await cursor.fetchall()
        if was_idle and not conn.autocommit:
            await conn.rollback()
        return _messages(rows)
    import sqlalchemy  # noqa: PLC0415 - as above

    return _messages((await conn.execute(sqlalchemy.text(_PENDING))).fetchall())
