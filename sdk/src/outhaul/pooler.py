"""Is a pooler between us and PostgreSQL? Then prepared statements are not ours to keep.

In transaction mode the next statement may run on another server connection, where the same name means nothing, or
**another client's statement**. pgbouncer before 1.21 does not track them at all. A pooler makes up the backend's
process id that it tells a client at start-up (it routes cancel requests by it), so it betrays itself.
"""

from __future__ import annotations

from typing import Any

import psycopg

_BACKEND_PID = "SELECT pg_catalog.pg_backend_pid()"


async def is_pooled(conn: psycopg.AsyncConnection[Any]) -> bool:
    """Whether the server process that answers is another than the one that greeted us. One round trip."""
    cursor = await psycopg.AsyncCursor(conn, row_factory=psycopg.rows.tuple_row).execute(_BACKEND_PID, prepare=False)
    row = await cursor.fetchone()
    return row is None or row[0] != conn.info.backend_pid


async def never_prepare_through_a_pooler(conn: psycopg.AsyncConnection[Any]) -> None:
    """Turn prepared statements off where they would not be safe; fit as a connection pool's ``configure``."""
    if conn.prepare_threshold is not None and await is_pooled(conn):
        conn.prepare_threshold = None
    if conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        await conn.rollback()
