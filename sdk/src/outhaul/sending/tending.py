"""What a living sender does beside sending: its heartbeat, the history's partitions, the gauges people watch.

None of it may stop the sending: what fails here is noted and tried again later.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from uuid import UUID

import psycopg

from outhaul.sending.engine import Engine
from outhaul.sending.sender_alerts import SenderAlerts
from outhaul.sending.store_link import TROUBLE, finish

_log = logging.getLogger(__name__)

# Counting reads the whole hot table: rarely, and the rarer the longer it takes.
COUNT_SECONDS = 15.0
COUNT_SHARE = 50


class Tending:
    """The slow loop of one sender, on a database connection of its own."""

    def __init__(self, engine: Engine, alerts: SenderAlerts, *, sender_id: UUID, name: str) -> None:
        self._engine = engine
        self._alerts = alerts
        self._link = engine.link("heartbeat and housekeeping")
        self._sender_id = sender_id
        self._name = name
        self._version = _version()
        self._next_housekeeping_at = 0.0
        self._next_count_at = 0.0
        self._may_keep_house = True
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    async def _run(self) -> None:
        interval_seconds = self._engine.settings.heartbeat_seconds
        while True:
            self._engine.status_changed.clear()
            self._alerts.look(self._engine, time.monotonic())
            try:
                await self.beat()
                await self._compare_clocks()
                await self._keep_house()
                await self._count()
            except TROUBLE as error:
                _log.debug("heartbeat: %s", error)
            # A changed connection is told at once: people look at the row just then.
            if self._stopping:
                return
            try:
                async with asyncio.timeout(interval_seconds):
                    await self._engine.status_changed.wait()
            except TimeoutError:
                continue

    async def beat(self) -> None:
        """Say that this sender lives, and how it fares."""
        engine = self._engine
        engine.sweep_gauges()
        engine.metrics.window_messages.set(engine.publisher.unconfirmed)
        state = engine.publisher.state
        text = state.status if not state.detail else f"{state.status}: {state.detail}"
        broken = engine.troubles()
        if broken:
            text += f"; {len(broken)} broken route(s), first {broken[0].exchange}/{broken[0].routing_key}"
        await self._link.run(
            lambda store: store.heartbeat(
                self._sender_id, name=self._name, host=platform.node(), version=self._version, state=text[:500]
            )
        )

    def start(self) -> None:
        """Begin, on the running loop."""
        self._task = asyncio.create_task(self._run(), name="outhaul: heartbeat and housekeeping")

    async def close(self) -> None:
        """End, and take the sender's row away: it ended in order."""
        self._stopping = True
        self._engine.status_changed.set()
        if self._task is not None:
            await finish(self._task, self._link, 1.0)
        if not self._link.trouble:
            await finish(asyncio.create_task(self._forget(), name="outhaul: last heartbeat"), self._link, 1.0)
        await self._link.close()

    async def _forget(self) -> None:
        try:
            await self._link.run(lambda store: store.forget_sender(self._sender_id))
        except TROUBLE as error:
            _log.debug("the sender's row stays until it is found silent: %s", error)

    async def _compare_clocks(self) -> None:
        """The database's clock is the one that counts; this process's may be hours off."""
        there = await self._link.run(lambda store: store.clock())
        self._engine.clock_lead = there - datetime.now(UTC)

    async def _keep_house(self) -> None:
        now = time.monotonic()
        if not self._may_keep_house or now < self._next_housekeeping_at:
            return
        self._next_housekeeping_at = now + self._engine.settings.housekeeping_seconds
        days = self._engine.settings.history_days
        try:
            made = await self._link.run(lambda store: store.make_partitions())
            dropped = 0 if days is None else await self._link.run(lambda store: store.drop_partitions(days))
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFunction) as error:
            # Somebody else's task then; rows without a partition go to the default one, and the marking goes on.
            self._may_keep_house = False
            _log.info("history partitions are not this sender's to make and drop: %s", error)
        except psycopg.errors.LockNotAvailable as error:
            # Somebody reads the whole history, which may take its time; it is tried again an hour later.
            _log.info("old history stays for now: %s", error)
        else:
            if made or dropped:
                _log.info("made %d history partitions, dropped %d older than %s days", made, dropped, days)

    async def _count(self) -> None:
        metrics = self._engine.metrics
        started = time.monotonic()
        if metrics.registry is None or started < self._next_count_at:
            return
        counts = await self._link.run(lambda store: store.count())
        self._next_count_at = time.monotonic() + max(COUNT_SECONDS, COUNT_SHARE * (time.monotonic() - started))
        metrics.outbox_rows.set(counts.free, status="free")
        metrics.outbox_rows.set(counts.leased, status="leased")
        metrics.outbox_rows.set(counts.parked, status="parked")
        metrics.outbox_oldest_age_seconds.set(counts.oldest_age_seconds)
        health = await self._link.run(lambda store: store.health())
        metrics.default_partition_rows.set(health.default_partition_rows, table="outbox_sent")
        metrics.oldest_transaction_seconds.set(health.oldest_transaction_seconds)


def _version() -> str:
    try:
        return version("outhaul")
    except PackageNotFoundError:
        return "unknown"
