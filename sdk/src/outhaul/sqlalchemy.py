"""The outbox in a SQLAlchemy 2 session or connection, whatever driver is under it.

The row is written through the session's own transaction; the caller commits. ``wake_after_commit`` then tells a
sender in the same process that there is something to send: a hint, which carries nothing.
"""

from __future__ import annotations

from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from outhaul.context import current_cause
from outhaul.errors import TransactionRequired
from outhaul.message import Message
from outhaul.outbox import Outbox, Recorded
from outhaul.tracing import current_traceparent

_TABLE = sa.table(
    "outbox",
    sa.column("message_id", sa.Uuid),
    sa.column("seq", sa.BigInteger),
    sa.column("exchange", sa.Text),
    sa.column("routing_key", sa.Text),
    sa.column("type", sa.Text),
    sa.column("source", sa.Text),
    sa.column("aggregate_id", sa.Text),
    sa.column("payload", sa.LargeBinary),
    sa.column("content_type", sa.Text),
    sa.column("headers", JSONB),
    sa.column("causation_id", sa.Text),
    sa.column("traceparent", sa.Text),
    sa.column("created_at", sa.DateTime(timezone=True)),
)


class Wakeable(Protocol):
    """A sender: something that can be told to look."""

    def wake(self) -> None:
        """Look for rows soon. Thread-safe."""


def add(target: Session | scoped_session[Any] | sa.Connection, outbox: Outbox, *messages: Message) -> list[Recorded]:
    """Record messages in the session's (or connection's) transaction, in order. Never commits.

    Raises TransactionRequired when the connection is in AUTOCOMMIT mode.
    """
    conn = target if isinstance(target, sa.Connection) else target.connection()
    _require_transaction(conn)
    cause = current_cause()
    recorded = []
    for message in messages:
        values = {
            "exchange": message.exchange or outbox.exchange,
            "routing_key": message.routing_key,
            "type": message.type,
            "source": outbox.source,
            "aggregate_id": message.aggregate_id,
            "payload": message.payload(),
            "content_type": message.content_type,
            "headers": dict(message.headers),
            "causation_id": message.causation_id or (cause.causation_id if cause else None),
            "traceparent": message.traceparent or current_traceparent(),
        }
        statement = _TABLE.insert().values(values).returning(_TABLE.c.message_id, _TABLE.c.seq, _TABLE.c.created_at)
        recorded.append(Recorded(*conn.execute(statement).one()))
    return recorded


async def add_async(
    target: AsyncSession | async_scoped_session[Any] | AsyncConnection, outbox: Outbox, *messages: Message
) -> list[Recorded]:
    """As ``add``, for an async session or connection."""
    own = target() if isinstance(target, async_scoped_session) else target
    return await own.run_sync(add, outbox, *messages)


def wake_after_commit(
    session: Session | scoped_session[Any] | AsyncSession | async_scoped_session[Any], sender: Wakeable
) -> None:
    """Wake the sender once this session's current transaction has committed; nothing happens on a rollback."""
    own = session() if isinstance(session, scoped_session | async_scoped_session) else session
    sync: Session = own.sync_session if isinstance(own, AsyncSession) else own
    waiting: list[Wakeable] = sync.info.setdefault(_WAITING, [])
    if sender not in waiting:
        waiting.append(sender)
    if not event.contains(sync, "after_commit", _wake):
        # They stay for the session's life: a listener cannot be removed while it is being called.
        event.listen(sync, "after_commit", _wake)
        event.listen(sync, "after_rollback", _forget)


_WAITING = "outhaul.wake_after_commit"


def _wake(session: Session) -> None:
    if session.in_nested_transaction():  # a savepoint's end: nothing is committed yet
        return
    for sender in session.info.pop(_WAITING, ()):
        sender.wake()


def _forget(session: Session) -> None:
    if not session.in_nested_transaction():
        session.info.pop(_WAITING, None)


def _require_transaction(conn: sa.Connection) -> None:
    driver: Any = conn.connection.dbapi_connection
    if getattr(driver, "autocommit", False) is True:
        raise TransactionRequired(
            "the SQLAlchemy connection is in AUTOCOMMIT mode: the message would be committed without its business "
            "row; use an engine or session with a real isolation level"
        )
