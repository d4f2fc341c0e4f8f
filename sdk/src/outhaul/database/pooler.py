"""Is a pooler between us and PostgreSQL? Then prepared statements are not ours to keep.

In transaction mode the next statement may run on another server connection, where the same name means nothing, or
**another client's statement**. pgbouncer before 1.21 does not track them at all. A pooler makes up the backend's
process id that it tells a client at start-up (it routes cancel requests by it), so it betrays itself.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg.rows import tuple_row

_BACKEND_PID: Final = "SELECT pg_catalog.pg_backend_pid()"


async def is_pooled(conn: psycopg.AsyncConnection[Any]) -> bool:
    """Whether the server process that answers is another than the one that greeted us. One round trip."""
    cursor = await psycopg.AsyncCursor(conn, row_factory=tuple_row).execute(_BACKEND_PID, prepare=False)
    return _is_another(await cursor.fetchone(), conn)


async def never_prepare_through_a_pooler(conn: psycopg.AsyncConnection[Any]) -> None:
    """Turn prepared statements off where they would not be safe; fit as a connection pool's ``configure``.

    For a connection that is new. Closes it when it cannot be asked.
    """
    if conn.prepare_threshold is None:
        return
    try:
        if await is_pooled(conn):
            conn.prepare_threshold = None
        await conn.rollback()
    except psycopg.Error:
        await conn.close()
        raise


def never_prepare_through_a_pooler_sync(conn: psycopg.Connection[Any]) -> None:
    """As ``never_prepare_through_a_pooler``."""
    if conn.prepare_threshold is None:
        return
    try:
        cursor = psycopg.Cursor(conn, row_factory=tuple_row).execute(_BACKEND_PID, prepare=False)
        if _is_another(cursor.fetchone(), conn):
            conn.prepare_threshold = None
        conn.rollback()
    except psycopg.Error:
        conn.close()
        raise


def _is_another(row: tuple[Any, ...] | None, conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    return row is None or row[0] != conn.info.backend_pid
