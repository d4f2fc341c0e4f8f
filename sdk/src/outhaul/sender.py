"""The sender: publishes what this process has just written and takes over rows nobody holds.

**Only a confirm for a routed message marks a row sent.** As long as one sender lives, the data path heals itself.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from uuid import UUID, uuid4

from outhaul.alerts import Alerter
from outhaul.database.outbox_store import OutboxRow
from outhaul.errors import ConfigurationError, ForkedProcess
from outhaul.metrics import Metrics
from outhaul.outbox import Outbox
from outhaul.sending.engine import Engine, RouteTrouble
from outhaul.sending.handover import HandOverLease, Reservations
from outhaul.sending.pump import Setback
from outhaul.sending.sender_alerts import SenderAlerts
from outhaul.sending.sender_settings import SenderSettings
from outhaul.sending.tending import Tending
from outhaul.settings import BrokerSettings, DatabaseSettings


@dataclass(frozen=True, slots=True)
class SenderState:
    """How a sender stands, for readiness and for people.

    ``broker`` is the publisher's status, ``broker_detail`` and ``database_detail`` say what is wrong ("" when nothing
    is), ``waiting`` counts rows claimed and not yet published, ``unconfirmed`` in flight, ``unmarked`` confirmed but
    not yet marked; ``sent``, ``parked`` and ``lease_lost`` count since the start.
    """

    broker: str
    broker_detail: str
    database_detail: str
    waiting: int
    unconfirmed: int
    unmarked: int
    sent: int
    parked: int
    lease_lost: int
    routes: tuple[RouteTrouble, ...]


class Sender:
    """``async with Sender(outbox, dsn=..., amqp_url=...) as sender``: sends until the block ends, then drains.

    Starts without the broker and without the database, and waits for neither. ``outbox`` is only kept for the
    caller's convenience: rows of every exchange are sent. ``settings`` bounds it, ``metrics`` counts,
    ``alerter`` (the caller's, to be closed by the caller) tells people. Raises ConfigurationError for what cannot work.
    """

    def __init__(
        self,
        outbox: Outbox | None = None,
        *,
        dsn: str | DatabaseSettings,
        amqp_url: str | BrokerSettings,
        name: str = "outhaul sender",
        settings: SenderSettings | None = None,
        metrics: Metrics | None = None,
        alerter: Alerter | None = None,
    ) -> None:
        if not name or not name.isprintable():
            raise ConfigurationError("name", name, "must be printable text: it is shown in the broker and the database")
        self.outbox = outbox
        self.sender_id: UUID = uuid4()
        self.settings = settings or SenderSettings()
        self._database = DatabaseSettings.parse(dsn)
        self._broker = BrokerSettings.parse(amqp_url)
        self._name = name
        self._metrics = metrics or Metrics.off()
        self._alerts = SenderAlerts(
            alerter or Alerter(), sender=name, broker=self._broker.address, database=self._database.address
        )
        self._reservations = Reservations(self.settings.hand_over_rows, self.settings.lease_seconds)
        self._engine: Engine | None = None
        self._tending: Tending | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._pid = os.getpid()
        self._hinted = False

    async def __aenter__(self) -> Self:
        """Start; waits for nothing."""
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain and close, up to ``drain_seconds``."""
        await self.close()

    def start(self) -> None:
        """Begin on the running loop. Raises ForkedProcess in a child of the process that made it."""
        self._check_process()
        if self._engine is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        engine = self._engine = Engine(
            self._database,
            self._broker,
            self.settings,
            name=self._name,
            metrics=self._metrics,
            on_parked=self._parked,
        )
        engine.start()
        self._tending = Tending(engine, self._alerts, sender_id=self.sender_id, name=self._name)
        self._tending.start()

    async def close(self) -> None:
        """Take no more, let what is in flight be confirmed and marked, give back the rest."""
        engine, self._engine = self._engine, None
        if engine is None or self._pid != os.getpid():
            return
        await engine.drain(self.settings.drain_seconds)
        if self._tending is not None:
            await self._tending.close()

    def wake(self) -> None:
        """Hint, from any thread, that rows were committed; carries nothing, and losing it costs a poll at most."""
        self._check_process()
        if self._hinted or self._engine is None or self._loop is None:
            return
        self._hinted = True
        self._in_loop(self._wake)

    def reserve(self) -> HandOverLease | None:
        """A lease to record one row with, to be kept by ``hand_over`` after the commit. From any thread.

        None while the broker takes nothing or the queue is full: record the row without a lease then.
        """
        self._check_process()
        engine = self._engine
        if engine is None or engine.publisher.status != "connected" or engine.marker.is_full:
            return None
        return self._reservations.reserve(engine.pump.handed)

    def hand_over(self, row: OutboxRow) -> bool:
        """Publish a row recorded with a lease of ``reserve()``, **after** its commit. From any thread.

        False when its lease was not promised here or has ended: the row goes out all the same, by a claim.
        """
        self._check_process()
        engine = self._engine
        expires_at = self._reservations.redeem(row.lease_token)
        if engine is None or expires_at is None or expires_at <= time.monotonic():
            return False
        self._in_loop(lambda: self._accept(row, expires_at))
        return True

    def give_back(self, lease: HandOverLease) -> None:
        """The transaction was rolled back: the lease will not be used. From any thread.

        Not for a commit whose outcome is unknown: then do nothing, and the row, if it exists, is free after the lease.
        """
        self._reservations.redeem(lease.token)

    def state(self) -> SenderState:
        """How it stands now."""
        engine = self._engine
        if engine is None:
            return SenderState("closed", "", "", 0, 0, 0, 0, 0, 0, ())
        broker = engine.publisher.state
        return SenderState(
            broker=broker.status,
            broker_detail=broker.detail,
            database_detail=engine.work_link.trouble or engine.mark_link.trouble,
            waiting=engine.pump.waiting,
            unconfirmed=broker.unconfirmed,
            unmarked=engine.marker.unmarked,
            sent=engine.marker.marked,
            parked=engine.feeder.parked,
            lease_lost=engine.feeder.lease_lost,
            routes=engine.troubles(),
        )

    def _accept(self, row: OutboxRow, expires_at: float) -> None:
        engine = self._engine
        if engine is not None:
            engine.pump.hand(row, expires_at)
            engine.pump.run()

    def _wake(self) -> None:
        self._hinted = False
        if self._engine is not None:
            self._engine.feeder.wake.set()

    def _in_loop(self, call: Callable[[], None]) -> None:
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        if threading.get_ident() == self._thread:
            loop.call_soon(call)
        else:
            loop.call_soon_threadsafe(call)

    def _parked(self, setback: Setback) -> None:
        self._alerts.parked(setback, self.settings.max_attempts)
        self._metrics.parked.inc(reason="refused")

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedProcess("this sender was made before a fork; make and start one in the child process")
