"""A bounded pool of connections that always tells the two failures apart: not committed, and nobody knows.

A statement is its own transaction (autocommit), so that behind pgbouncer in transaction mode nothing rests on the
session. For the same reason its deadline is kept here, by cancelling the statement, and not by `SET statement_timeout`,
which in that mode would stick to somebody else's server connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, LiteralString

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from outhaul.database.pooler import never_prepare_through_a_pooler
from outhaul.settings import DatabaseSettings

_log = logging.getLogger("outhaul.database")

# The server sends these as it ends the connection, possibly after the commit (a wait for a replica is cut short).
_ENDS_CONNECTION: Final = frozenset({"57P01", "57P02", "57P03", "57P04", "57P05"})
# Someone must change something outside (grants, schema), or wait (space, locks, replica, deadlock).
_NOT_NOW: Final = ("25", "40", "53", "55", "57", "58", "XX")
_WRONG_SCHEMA: Final = frozenset({"42P01", "42703", "42501", "42883", "3F000"})
_RECONNECT_SECONDS: Final = 2.0
_CANCEL_SECONDS: Final = 1.0


class _Deadline:
    """Ends a statement that takes too long: asks the server to cancel it, and cuts the connection if that is no use."""

    def __init__(self, conn: psycopg.AsyncConnection[Any], seconds: float) -> None:
        self._conn = conn
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(seconds, self._begin)

    def has_passed(self) -> bool:
        """The statement has ended: by itself (False), or not before its time was over."""
        self._timer.cancel()
        if self._task is None:
            return False
        self._task.cancel()
        return True

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._end_statement())

    async def _end_statement(self) -> None:
        try:
            await self._conn.cancel_safe(timeout=_CANCEL_SECONDS)
            # The server's answer to a cancelled statement is due at once.
            await asyncio.sleep(_CANCEL_SECONDS)
        except psycopg.Error as error:
            _log.debug("a statement could not be cancelled: %s", error)
        # Closing would pull the socket from under the one who waits on it; shut down, it tells him of its end.
        with socket.socket(fileno=os.dup(self._conn.fileno())) as same, contextlib.suppress(OSError):
            same.shutdown(socket.SHUT_RDWR)


class NotCommitted(Exception):
    """The database could not do it now, and nothing was written. ``why`` holds no value of the statement's."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class OutcomeUnknown(NotCommitted):
    """The connection ended, or the deadline passed, while the statement ran: it may have been committed."""


class Database:
    """At most ``size`` connections; requests beyond them wait ``wait_seconds``, and at most ``queue`` of them.

    Starts without the database, and comes back with it. ``deadline_seconds`` bounds a statement.
    ``prepared_statements`` are used only on a connection straight to the server: see `outhaul.database.pooler`.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        *,
        name: str,
        size: int,
        wait_seconds: float = 2.0,
        deadline_seconds: float = 5.0,
        queue: int = 500,
        prepared_statements: bool = True,
    ) -> None:
        self._name = name
        self._trouble = ""
        self._deadline_seconds = deadline_seconds
        self._wait_seconds = wait_seconds
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]] = AsyncConnectionPool(
            settings.conninfo,
            kwargs={"autocommit": True, "prepare_threshold": 0 if prepared_statements else None},
            configure=never_prepare_through_a_pooler,
            min_size=1,
            max_size=size,
            open=False,
            name=name,
            timeout=wait_seconds,
            max_waiting=queue,
            # Gives up early, so that the next request tries at once; else its pauses grow with the outage's length.
            reconnect_timeout=_RECONNECT_SECONDS,
        )
        # The pool logs each refused attempt; Outhaul says what an outage means where it matters.
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)

    async def open(self) -> None:
        """Begin to connect in the background; returns at once."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close every connection; those in use when they are given back."""
        await self._pool.close()

    async def fetch(self, query: LiteralString, parameters: Mapping[str, Any] | Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run one statement as its own transaction and return its rows.

        Raises NotCommitted or OutcomeUnknown; psycopg.Error for what only a mistake in the program explains.
        """
        sent = False
        try:
            conn = await self._checkout()
            deadline = _Deadline(conn, self._deadline_seconds)
            try:
                cursor = conn.cursor(binary=True)
                sent = True
                await cursor.execute(query, parameters)
                # Not `description`: it makes an object for every column each time it is asked for.
                rows = [] if cursor.rownumber is None else await cursor.fetchall()
            finally:
                if deadline.has_passed():
                    # The cancellation may still be on its way, and must not hit the next statement.
                    await conn.close()
                await self._pool.putconn(conn)
        except psycopg.Error as error:
            failure = failure_of(error, sent=sent)
            if failure is None:
                raise
            self._note(failure.why, error)
            raise failure from error
        if self._trouble:
            self._note("")
        return rows

    async def not_ready(self, query: LiteralString, *, component: str) -> str | None:
        """Why this database cannot do its part now; None when it can.

        ``query`` answers whether the component's tables are there, and whether the database is read-only.
        """
        try:
            has_tables, read_only = (await self.fetch(query, ()))[0]
        except NotCommitted as error:
            return error.why
        if not has_tables:
            return f"the database lacks the tables; run `outhaul schema apply --component {component}`"
        return "the database is read-only" if read_only else None

    def _note(self, trouble: str, error: psycopg.Error | None = None) -> None:
        """Log an outage when it begins, changes or ends, not once for every request in it."""
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if error is None:
            _log.info("database of %s answers again", self._name)
        else:
            # The first line alone: what follows may quote the row.
            said = error.diag.message_primary or str(error).partition("\n")[0]
            _log.warning("database of %s: %s", self._name, trouble, extra={"said": said})

    async def _checkout(self) -> psycopg.AsyncConnection[Any]:
        """A connection that the server has not closed meanwhile: told from its socket, without a round trip."""
        until = time.monotonic() + self._wait_seconds
        while True:
            conn = await self._pool.getconn(max(0.0, until - time.monotonic()))
            if not _readable(conn.fileno()):
                return conn
            # Nothing is due on an idle connection but its end.
            await conn.close()
            await self._pool.putconn(conn)


def failure_of(error: BaseException, *, sent: bool) -> NotCommitted | None:
    """What a failure says about the statement; None when it says that the program is wrong."""
    for kind, why in _POOL_FAILURES.items():
        if isinstance(error, kind):
            return NotCommitted(why)
    if isinstance(error, psycopg.Error) and error.sqlstate is not None:
        return _refusal(error, error.sqlstate)
    if isinstance(error, psycopg.OperationalError):
        why = "the connection to the database was lost" if sent else "there is no connection to the database"
    else:
        return None
    return OutcomeUnknown(why) if sent else NotCommitted(why)


def _refusal(error: psycopg.Error, state: str) -> NotCommitted | None:
    """The server's own answer. An error it answers with has undone the statement, unless it ends the connection."""
    if state in _ENDS_CONNECTION or state.startswith("08"):
        return OutcomeUnknown(f"the database ended the connection ({state})")
    if state in _WRONG_SCHEMA:
        return NotCommitted(f"the database's schema or grants are not those of this release ({state})")
    if isinstance(error, psycopg.errors.QueryCanceled):
        return NotCommitted(f"the database did not do it in time ({state})")
    if state.startswith(_NOT_NOW):
        return NotCommitted(f"{error.diag.message_primary or 'the database refused'} ({state})")
    return None


_POOL_FAILURES: Final[Mapping[type[BaseException], str]] = {
    PoolTimeout: "no database connection became free in time",
    TooManyRequests: "too many requests are waiting for a database connection",
    PoolClosed: "the service is shutting down",
}


def _readable(descriptor: int) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))
