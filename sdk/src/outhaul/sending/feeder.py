"""Takes rows from the database for the pump, and writes back what was not sent. An outage spends no attempts."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import groupby

from outhaul.backoff import Backoff
from outhaul.database.outbox_store import OutboxRow, OutboxStore
from outhaul.publisher import Publisher
from outhaul.sending.breaker import Breaker
from outhaul.sending.marker import Marker
from outhaul.sending.pump import Pump, Setback
from outhaul.sending.sender_settings import SenderSettings
from outhaul.sending.store_link import TROUBLE, StoreLink

_log = logging.getLogger(__name__)

Source = Callable[[OutboxStore, int], Awaitable[list[OutboxRow]]]
"""Claims up to that many rows; fewer means that there are no more for now."""

LEAST_CLAIM_ROWS = 10
# Each probe is a statement and a pause of the window: many broken routes take turns.
PROBES_A_ROUND = 5
RECOVERIES_A_ROUND = 20
REFUSED = "refused"


class Feeder:
    """Claims while the broker takes messages and memory has room; never while confirms cannot be marked.

    ``wake`` is set by whoever knows of new rows, of room, or of a change of the connection. ``probing`` takes rows of
    broken routes, whatever ``source`` would choose. ``most_rows`` bounds what is taken and not given back, and so what
    can be sent at all. ``on_parked(setback)`` is told of every row given up on, ``on_released(rows)`` of rows that are
    free again at once, ``on_lease_lost(count)`` of rows another sender took.
    """

    def __init__(
        self,
        link: StoreLink,
        pump: Pump,
        publisher: Publisher,
        marker: Marker,
        settings: SenderSettings,
        *,
        source: Source,
        probing: bool,
        most_rows: int | None,
        on_parked: Callable[[Setback], None],
        on_released: Callable[[list[OutboxRow]], None],
        on_lease_lost: Callable[[int], None],
    ) -> None:
        self.wake = asyncio.Event()
        self.exhausted = False
        self.lease_lost = 0
        self.parked = 0
        self.taken = 0
        self._link = link
        self._pump = pump
        self._publisher = publisher
        self._marker = marker
        self._settings = settings
        self._source = source
        self._probing = probing
        self._most_rows = sys.maxsize if most_rows is None else most_rows
        self._given_back = 0
        self._on_parked = on_parked
        self._on_released = on_released
        self._on_lease_lost = on_lease_lost
        self._limit = settings.claim_rows
        self._more = False
        self._taking = True
        self._writing = 0
        self._backoff = Backoff(base_seconds=0.1, cap_seconds=5.0)
        self._refused = Backoff(base_seconds=settings.refused_base_seconds, cap_seconds=settings.refused_cap_seconds)

    @property
    def is_writing(self) -> bool:
        """Whether rows are being given back at this moment."""
        return self._writing > 0

    @property
    def room(self) -> int:
        """How many more rows may be taken."""
        return max(0, self._most_rows - (self.taken - self._given_back))

    def stop(self) -> None:
        """Claim no more; ``run()`` ends once the claim under way, if any, has handed its rows on."""
        self._taking = False
        self.wake.set()

    def changed(self) -> None:
        """Room or connection may have changed: look whether there is something to do."""
        if self._more and self._pump.waiting < self._settings.claim_rows:
            self._more = False
            self.wake.set()

    async def run(self) -> None:
        """Claim, probe and write back until ``stop()``."""
        while self._taking:
            self.wake.clear()
            try:
                await self.write_setbacks()
                wait_seconds = await self._take()
                self._backoff.reset()
            except TROUBLE as error:
                # The link has logged it. Rows in memory stay ours until their lease ends, then anybody's.
                _log.debug("the outbox cannot be reached: %s", error)
                await self._pause()
                continue
            self._pump.expire(time.monotonic())
            if self._taking:
                await _within(self.wake, wait_seconds)

    async def write_setbacks(self) -> None:
        """Release or fail what was not sent. What could not be written is kept for the next time."""
        setbacks, self._pump.setbacks = self._pump.setbacks, []
        self._writing += 1
        try:
            released = sorted((s for s in setbacks if not s.refused), key=_release_key)
            for (delay_seconds, reason), group in groupby(released, key=_release_key):
                await self._release([setback.row for setback in group], delay_seconds, reason)
                setbacks = [s for s in setbacks if s.refused or _release_key(s) != (delay_seconds, reason)]
            while setbacks:
                await self._fail(setbacks[-1])
                setbacks.pop()
        except TROUBLE:
            self._pump.setbacks = setbacks + self._pump.setbacks
            raise
        finally:
            self._writing -= 1

    async def _pause(self) -> None:
        """Wait before the next attempt; hints do not shorten it, ``stop()`` does."""
        until = time.monotonic() + self._backoff.next_seconds()
        while self._taking and time.monotonic() < until:
            self.wake.clear()
            await _within(self.wake, until - time.monotonic())

    async def _release(self, rows: list[OutboxRow], delay_seconds: float, reason: str) -> None:
        released = await self._link.run(
            lambda store: store.release(rows, delay_seconds=delay_seconds, last_error=reason)
        )
        self._lost(len(rows) - released)
        self._make_room(len(rows))
        if not delay_seconds:
            self.exhausted = False
            self._on_released(rows)

    async def _fail(self, setback: Setback) -> None:
        self._refused.failures = setback.row.attempts
        delay_seconds = self._refused.next_seconds()
        state = await self._link.run(
            lambda store: store.fail(
                setback.row,
                last_error=setback.reason,
                delay_seconds=delay_seconds,
                max_attempts=self._settings.max_attempts,
                reason=REFUSED,
            )
        )
        self._make_room(1)
        if state is None:
            self._lost(1)
        elif state == "parked":
            self.parked += 1
            self._on_parked(setback)

    async def _take(self) -> float:
        """One round of claims; returns for how long to wait for a wake-up before the next."""
        idle_seconds = self._settings.poll_seconds * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        if not self._may_take():
            return idle_seconds
        if self._probing:
            await self._probe_broken()
            await self._recover()
        proven = self._publisher.proven
        if self._pump.waiting >= self._settings.claim_rows or (not proven and not self._pump.is_idle):
            self._more = True
            return idle_seconds
        # A connection that has carried nothing yet is proved with a single row.
        limit = min(self._next_limit() if proven else 1, self.room)
        self.exhausted = not limit
        if not limit:
            return idle_seconds
        rows = await self._link.run(lambda store: self._source(store, limit))
        self.taken += len(rows)
        self.exhausted = len(rows) < limit or not self.room
        if rows:
            self._pump.feed(rows, time.monotonic() + self._settings.lease_seconds)
        if len(rows) == limit:
            self._more = True
            self.changed()
        next_probe_at = self._pump.breakers.next_due_at()
        if self._probing and next_probe_at is not None:
            idle_seconds = min(idle_seconds, max(0.01, next_probe_at - time.monotonic()))
        return idle_seconds

    def _may_take(self) -> bool:
        return self._publisher.status == "connected" and not self._marker.is_full and not self._marker.is_failing

    def _next_limit(self) -> int:
        """Rows that drain well within the lease: fewer after some came too late, more while they do not."""
        if self._pump.take_late():
            self._limit = max(LEAST_CLAIM_ROWS, self._limit // 2)
        else:
            self._limit = min(self._settings.claim_rows, self._limit * 2)
        return self._limit

    async def _probe_broken(self) -> None:
        for breaker in self._pump.breakers.due(time.monotonic())[:PROBES_A_ROUND]:
            if not self.room:
                return
            rows = await self._claim_route(breaker, 1)
            if rows:
                self._pump.probe(rows[0], time.monotonic() + self._settings.lease_seconds)
            else:
                # Nothing of that route is waiting; a message that comes will be its own probe.
                self._pump.forget(breaker)

    async def _recover(self) -> None:
        recovering = self._pump.breakers.recovering()
        if len(recovering) > RECOVERIES_A_ROUND:
            self.wake.set()
        for breaker in recovering[:RECOVERIES_A_ROUND]:
            if self._pump.waiting >= self._settings.claim_rows:
                return
            if self.room < breaker.recovery_rows:
                # Too little room to tell by a claim when the route is whole: its rows are free for whoever comes.
                await self._wake_route(breaker)
                self._pump.recovered(breaker, (), time.monotonic())
                continue
            rows = await self._claim_route(breaker, breaker.recovery_rows)
            self._pump.recovered(breaker, rows, time.monotonic() + self._settings.lease_seconds)
            self._more = True

    async def _wake_route(self, breaker: Breaker) -> None:
        exchange, routing_key = breaker.route
        await self._link.run(lambda store: store.wake_route(exchange, routing_key))

    async def _claim_route(self, breaker: Breaker, limit: int) -> list[OutboxRow]:
        exchange, routing_key = breaker.route
        rows = await self._link.run(
            lambda store: store.claim_route(exchange, routing_key, limit, self._settings.lease_seconds)
        )
        self.taken += len(rows)
        return rows

    def _make_room(self, given_back: int) -> None:
        if not self.room:
            self.exhausted = False
        self._given_back += given_back

    def _lost(self, count: int) -> None:
        if count > 0:
            self.lease_lost += count
            self._on_lease_lost(count)


def _release_key(setback: Setback) -> tuple[float, str]:
    return (setback.delay_seconds, setback.reason)


async def _within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
