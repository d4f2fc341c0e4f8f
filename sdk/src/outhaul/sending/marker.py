"""Marks confirmed rows as sent, in batches. **A confirm is a fact**: it is kept until the database has it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from uuid import UUID

from outhaul.backoff import Backoff
from outhaul.failpoints import CONFIRM_MARK
from outhaul.sending.store_link import TROUBLE, StoreLink

_log = logging.getLogger(__name__)

# One statement takes what has gathered meanwhile, up to this many rows; more would hold locks for long.
MOST_ROWS = 2000


class Marker:
    """Gathers ids and writes them when ``flush_rows`` are there or ``flush_seconds`` have passed.

    One row at a time would cost 18 to 90 times as much. While the database is away the ids wait here; ``is_full``
    tells that no more should be published. ``on_marked(count)`` is called after each write.
    """

    def __init__(
        self,
        link: StoreLink,
        *,
        flush_rows: int,
        flush_seconds: float,
        most_unmarked: int,
        on_marked: Callable[[int], None],
    ) -> None:
        self._link = link
        self._flush_rows = flush_rows
        self._flush_seconds = flush_seconds
        self._most_unmarked = most_unmarked
        self._on_marked = on_marked
        self._ids: list[UUID] = []
        self._some = asyncio.Event()
        self._enough = asyncio.Event()
        self._stopping = False
        self._backoff = Backoff(base_seconds=0.1, cap_seconds=5.0)
        self._writing = 0
        self.marked = 0

    @property
    def unmarked(self) -> int:
        """Rows confirmed by the broker and not yet marked in the database."""
        return len(self._ids) + self._writing

    @property
    def is_full(self) -> bool:
        """Whether as many are waiting as may be kept."""
        return len(self._ids) + self._writing >= self._most_unmarked

    @property
    def is_failing(self) -> bool:
        """Whether the last write failed."""
        return self._backoff.failures > 0

    def add(self, ids: list[UUID]) -> None:
        """Confirmed by the broker just now."""
        self._ids += ids
        self._some.set()
        if len(self._ids) >= self._flush_rows:
            self._enough.set()

    async def run(self) -> None:
        """Write until ``stop()``, and then what is left, once."""
        while not self._stopping or self._ids:
            await self._some.wait()
            if not self._stopping and len(self._ids) < self._flush_rows:
                await _within(self._enough, self._flush_seconds)
            self._enough.clear()
            self._some.clear()
            failed = not await self._write()
            if failed and self._stopping:
                return
            if failed:
                await self._pause(self._backoff.next_seconds())

    def stop(self) -> None:
        """No more will come: write what is there and end."""
        self._stopping = True
        self._some.set()
        self._enough.set()

    async def _write(self) -> bool:
        while self._ids:
            batch, self._ids = self._ids[:MOST_ROWS], self._ids[MOST_ROWS:]
            self._writing = len(batch)
            try:
                await self._confirm(batch)
            except TROUBLE as error:
                # The rows stay leased; marking one twice does nothing, so it does not matter how far it came.
                self._ids = batch + self._ids
                self._some.set()
                _log.debug("%d confirmed rows wait to be marked: %s", len(self._ids), error)
                return False
            finally:
                self._writing = 0
            self._backoff.reset()
            self.marked += len(batch)
            self._on_marked(len(batch))
            if len(self._ids) < self._flush_rows:
                break
        if self._ids:
            self._some.set()
        return True

    async def _confirm(self, batch: list[UUID]) -> None:
        CONFIRM_MARK.hit()
        await self._link.run(lambda store: store.confirm(batch))

    async def _pause(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not self._stopping and loop.time() < until:
            self._enough.clear()  # more ids set it again; only stop() ends the pause early
            await _within(self._enough, until - loop.time())


async def _within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        return
