"""A database connection that mends itself: opened when first needed, dropped when it fails, every wait bounded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg

from outhaul.database.outbox_store import OutboxStore
from outhaul.errors import DatabaseUnreachable, OuthaulError
from outhaul.settings import DatabaseSettings

T = TypeVar("T")
_log = logging.getLogger(__name__)

# What a database can do to a statement: wait and try again, whatever the reason.
TROUBLE = (psycopg.Error, OuthaulError)


class StoreLink:
    """One `OutboxStore` over one connection. One statement at a time; the caller waits between failures.

    A statement without an answer within ``timeout_seconds`` counts as a lost connection: whether it took effect is
    unknown, so whatever is asked of it must be harmless when done twice.
    """

    def __init__(
        self, database: DatabaseSettings, *, timeout_seconds: float, prepared_statements: bool, role: str
    ) -> None:
        self._database = database
        self._timeout_seconds = timeout_seconds
        self._store = OutboxStore(database, prepared_statements=prepared_statements)
        self._role = role
        self._lock = asyncio.Lock()
        self._silent = False
        self.trouble = ""
        self.lost = 0

    async def run(self, work: Callable[[OutboxStore], Awaitable[T]]) -> T:
        """Do one thing with the store. Raises DatabaseUnreachable, or psycopg's error for a refused statement."""
        async with self._lock:
            try:
                if not self._store.is_open:
                    await self._store.open()  # bounded by the connection's own connect_timeout
                deadline = asyncio.get_running_loop().call_later(self._timeout_seconds, self.cut)
                try:
                    result = await work(self._store)
                finally:
                    deadline.cancel()
            except TROUBLE as error:
                trouble = await self._judge(error)
                self._note(trouble)
                if trouble is error:
                    raise
                raise trouble from error
            if self.trouble:
                _log.info("database %s answers again (%s)", self._database.address, self._role)
                self.trouble = ""
            return result

    def cut(self) -> None:
        """Give up the statement under way, if any, and its connection: whoever waits for it gets an error at once."""
        self._silent = True
        self._store.cut()

    async def _judge(self, error: Exception) -> Exception:
        """Whether the connection is lost or only the statement was refused."""
        silent, self._silent = self._silent, False
        lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) or not self._store.is_open
        if not lost:
            return error
        await self._drop()
        if isinstance(error, DatabaseUnreachable):
            return error
        why = f"no answer within {self._timeout_seconds:g} s" if silent else _first_line(error)
        return DatabaseUnreachable(self._database.address, why)

    async def close(self) -> None:
        """Close the connection."""
        await self._drop()

    def _note(self, error: Exception) -> None:
        text = _first_line(error)
        if text != self.trouble:
            _log.warning("%s: %s", self._role, text)
        self.trouble = text

    async def _drop(self) -> None:
        self.lost += 1
        try:
            async with asyncio.timeout(2.0):
                await self._store.close()
        except (TimeoutError, psycopg.Error) as error:
            _log.debug("closing a lost database connection: %s", error)


async def finish(task: asyncio.Task[None], link: StoreLink, seconds: float) -> None:
    """Let a task that works on ``link`` end by itself, for so long; then make it. Never raises, and logs a failure.

    Its connection is cut first: a task cancelled within a statement would go on talking to a silent server.
    """
    await asyncio.wait({task}, timeout=max(0.0, seconds))
    if not task.done():
        link.cut()
        await asyncio.wait({task}, timeout=0.2)
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=1.0)
    if task.done() and not task.cancelled() and (error := task.exception()) is not None:
        _log.error("%s failed: %s", task.get_name(), error, exc_info=error)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
