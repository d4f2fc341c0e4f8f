"""A database connection that mends itself: opened when first needed, dropped when it fails, every wait bounded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg

from outhaul.errors import DatabaseUnreachable, OuthaulError
from outhaul.outbox_store import OutboxStore
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
        self.trouble = ""
        self.lost = 0

    async def run(self, work: Callable[[OutboxStore], Awaitable[T]]) -> T:
        """Do one thing with the store. Raises DatabaseUnreachable, or psycopg's error for a refused statement."""
        async with self._lock:
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    if not self._store.is_open:
                        await self._store.open()
                    result = await work(self._store)
            except TimeoutError as error:
                await self._drop()
                trouble = DatabaseUnreachable(
                    self._database.address, f"no answer within {self._timeout_seconds:g} s ({self._role})"
                )
                self._note(trouble)
                raise trouble from error
            except TROUBLE as error:
                if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) or not self._store.is_open:
                    await self._drop()
                    trouble = (
                        error
                        if isinstance(error, DatabaseUnreachable)
                        else DatabaseUnreachable(self._database.address, _first_line(error))
                    )
                    self._note(trouble)
                    raise trouble from error
                self._note(error)
                raise
            if self.trouble:
                _log.info("database %s answers again (%s)", self._database.address, self._role)
                self.trouble = ""
            return result

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


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
