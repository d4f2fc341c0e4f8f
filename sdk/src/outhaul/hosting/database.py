"""A bounded pool of connections that always tells the two failures apart: not committed, and nobody knows.

A statement is its own transaction (autocommit), so that behind pgbouncer in transaction mode nothing rests on the
session. For the same reason its deadline is kept here, by cancelling the statement, and not by `SET statement_timeout`,
which in that mode would stick to somebody else's server connection.
"""

from __future__ import annotations

import asyncio
import logging
import select
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, LiteralString

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from outhaul.settings import DatabaseSettings

_log = logging.getLogger("outhaul.database")

# The server sends these as it ends the connection, possibly after the commit (a wait for a replica is cut short).
_ENDS_CONNECTION: Final = frozenset({"57P01", "57P02", "57P03", "57P04", "57P05"})
# Someone must change something outside (grants, schema), or wait (space, locks, replica, deadlock).
_NOT_NOW: Final = ("25", "40", "53", "55", "57", "58", "XX")
_WRONG_SCHEMA: Final = frozenset({"42P01", "42703", "42501", "42883", "3F000"})
_RECONNECT_SECONDS: Final = 2.0


class NotCommitted(Exception):
    """The database could not do it now, and nothing was written. ``why`` holds no value of the statement's."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class OutcomeUnknown(NotCommitted):
    """The connection ended, or the deadline passed, while the statement ran: it may have been committed."""


class Database:
    """At most ``size`` connections; requests beyond them wait ``wait_seconds``, and at most ``queue`` of them.

    Starts without the database, and comes back with it. ``deadline_seconds`` bounds a statement with its wait;
    ``prepared_statements`` must be False behind a pgbouncer that does not track them.
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
            async with asyncio.timeout(self._deadline_seconds):
                conn = await self._checkout()
                try:
                    cursor = conn.cursor(binary=True)
                    sent = True
                    await cursor.execute(query, parameters)
                    rows = await cursor.fetchall() if cursor.description else []
                finally:
                    await self._pool.putconn(conn)
        except (TimeoutError, psycopg.Error) as error:
            failure = failure_of(error, sent=sent)
            if failure is None:
                raise
            self._note(failure.why)
            raise failure from error
        if self._trouble:
            self._note("")
        return rows

    def _note(self, trouble: str) -> None:
        """Log an outage when it begins, changes or ends, not once for every request in it."""
        if trouble != self._trouble:
            if trouble:
                _log.warning("database of %s: %s", self._name, trouble)
            else:
                _log.info("database of %s answers again", self._name)
            self._trouble = trouble

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
    if isinstance(error, TimeoutError):
        why = "the database did not answer in time"
    elif isinstance(error, psycopg.Error) and error.sqlstate is not None:
        return _refusal(error, error.sqlstate)
    elif isinstance(error, psycopg.OperationalError):
        why = "the connection to the database was lost" if sent else "there is no connection to the database"
    else:
        return None
    return OutcomeUnknown(why) if sent else NotCommitted(why)


def _refusal(error: psycopg.Error, state: str) -> NotCommitted | None:
    """The server's own answer. An error it answers with has undone the statement, unless it ends the connection."""
    if state in _ENDS_CONNECTION or state.startswith("08"):
        return OutcomeUnknown(f"the database ended the connection ({state})")
    if state in _WRONG_SCHEMA:
        _log.error("the database lacks a table, a column or a grant: %s", error.diag.message_primary)
        return NotCommitted(f"the database's schema or grants are not those of this release ({state})")
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
