"""Publisher, pump, marker and feeder, joined: what sends rows of an outbox, whoever runs it and for how long.

The sender runs it for as long as its process lives, `outhaul resend` until nothing is left.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from outhaul.database.outbox_store import OutboxRow, OutboxStore
from outhaul.metrics import Metrics
from outhaul.publisher import Publisher, Settled
from outhaul.sending.breaker import Breaker, Phase, Route
from outhaul.sending.feeder import Feeder, Source
from outhaul.sending.marker import Marker
from outhaul.sending.pump import Pump, Setback
from outhaul.sending.sender_settings import SenderSettings
from outhaul.sending.store_link import TROUBLE, StoreLink, finish
from outhaul.settings import BrokerSettings, DatabaseSettings

_log = logging.getLogger(__name__)

LAST_WRITES_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class RouteTrouble:
    """A route that takes no messages: which, what the broker says, and for how long (seconds)."""

    exchange: str
    routing_key: str
    kind: str
    reason: str
    for_seconds: float


class Engine:
    """Sends what ``source`` claims, by default every free row. ``start()``, then ``drain()`` to end in order.

    ``probing`` lets it take any row of a broken route to probe it with. ``most_rows`` bounds what it sends in its life;
    what could not be sent does not count. ``on_parked(setback)`` is called for each row
    given up on, ``on_released(rows)`` for rows that could not be sent and are free again.
    """

    def __init__(
        self,
        database: DatabaseSettings,
        broker: BrokerSettings,
        settings: SenderSettings,
        *,
        name: str,
        metrics: Metrics,
        source: Source | None = None,
        probing: bool = True,
        most_rows: int | None = None,
        on_parked: Callable[[Setback], None] = lambda _: None,
        on_released: Callable[[list[OutboxRow]], None] = lambda _: None,
    ) -> None:
        self.settings = settings
        self.database = database
        self.metrics = metrics
        self.work_link = self.link("claiming from the outbox")
        self.mark_link = self.link("marking what was sent")
        self.publisher = Publisher(
            broker,
            on_confirmed=self._confirmed,
            on_settled=self._settled,
            on_change=self._changed,
            window_messages=settings.window_messages,
            window_bytes=settings.window_bytes,
            confirm_timeout_seconds=settings.confirm_timeout_seconds,
            name=name,
            metrics=metrics,
        )
        self.pump = Pump(
            self.publisher,
            least_lease_seconds=settings.least_lease_seconds,
            on_confirmed=self._mark,
            on_setback=self._wake,
            on_trip=self._tripped,
            on_recovery=self._recovers,
            on_whole=self._whole,
        )
        self.marker = Marker(
            self.mark_link,
            flush_rows=settings.flush_rows,
            flush_seconds=settings.flush_seconds,
            most_unmarked=settings.unmarked_rows,
            on_marked=self._marked,
        )
        self.feeder = Feeder(
            self.work_link,
            self.pump,
            self.publisher,
            self.marker,
            settings,
            source=source or self._claim,
            probing=probing,
            most_rows=most_rows,
            on_parked=on_parked,
            on_released=on_released,
            on_lease_lost=metrics.lease_lost.inc,
        )
        self.clock_lead: timedelta | None = None  # the database's clock less ours; None until compared
        self.status_changed = asyncio.Event()
        self._status = ""
        self._ending = False
        self._gauged: set[Route] = set()
        self._moved = asyncio.Event()
        self._feeding: asyncio.Task[None] | None = None
        self._marking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, on the running loop; waits for neither the broker nor the database."""
        loop = asyncio.get_running_loop()
        self.publisher.start()
        self._feeding = loop.create_task(self.feeder.run(), name="outhaul: claiming from the outbox")
        self._marking = loop.create_task(self.marker.run(), name="outhaul: marking what was sent")

    def link(self, role: str) -> StoreLink:
        """One more connection to the outbox's database, opened when first used."""
        return StoreLink(
            self.database,
            timeout_seconds=self.settings.statement_timeout_seconds,
            prepared_statements=self.settings.prepared_statements,
            role=role,
        )

    @property
    def is_idle(self) -> bool:
        """Nothing in memory, in flight or unmarked."""
        return self.pump.is_idle and self.marker.unmarked == 0 and not self.feeder.is_writing

    @property
    def outage(self) -> str:
        """Why nothing can be sent or marked at all; "" when something can."""
        state = self.publisher.state
        if state.status not in {"connected", "reopening"}:
            return f"broker {state.status}: {state.detail}"
        return self.work_link.trouble or self.mark_link.trouble

    @property
    def has_sent_everything(self) -> bool:
        """Whether the source has nothing more or ``most_rows`` are sent, and nothing is under way.

        Rows a broken route holds back may remain.
        """
        undecided = self.feeder.room and any(breaker.phase is not Phase.OPEN for breaker in self.pump.breakers)
        return self.feeder.exhausted and self.is_idle and not undecided

    async def wait_for_change(self, seconds: float) -> None:
        """Wait until something was settled or marked, or the connection changed, up to ``seconds``."""
        self._moved.clear()
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._moved.wait()
        except TimeoutError:
            return

    def sweep_gauges(self) -> None:
        """Forget the series of routes that are broken no more."""
        for route in [each for each in self._gauged if self.pump.breakers.get(each) is None]:
            self._gauged.discard(route)
            self.metrics.breaker_open.remove(exchange=route[0], routing_key=route[1])

    def troubles(self) -> tuple[RouteTrouble, ...]:
        """The routes that take no messages now."""
        now = time.monotonic()
        return tuple(
            RouteTrouble(*breaker.route, breaker.kind, breaker.reason, now - breaker.opened_at)
            for breaker in self.pump.breakers
        )

    async def drain(self, seconds: float) -> None:
        """Claim no more, let what is in flight be confirmed and marked, up to ``seconds``, and close.

        What is not confirmed by then is released, so that another sender need not wait for the lease's end.
        """
        deadline = time.monotonic() + seconds
        self.feeder.stop()
        if self._feeding is not None:
            # Not cancelled: a claim cut short would leave rows leased to nobody until their lease ends.
            await finish(self._feeding, self.work_link, max(LAST_WRITES_SECONDS, seconds))
        if self.publisher.status == "connected":
            await self._until(lambda: self.pump.waiting == 0, deadline)
        self._ending = self.pump.paused = True
        why = "the sender ended before its turn came"
        self.pump.give_back(why, suspects=True)
        await self.publisher.close(drain_seconds=max(0.1, deadline - time.monotonic()))
        self.pump.give_back(why, suspects=True)
        self.marker.stop()
        if self._marking is not None:
            await finish(self._marking, self.mark_link, max(LAST_WRITES_SECONDS, deadline - time.monotonic()))
        if not self.work_link.trouble:
            last = asyncio.create_task(self._last_writes(), name="outhaul: giving back what was not sent")
            await finish(last, self.work_link, LAST_WRITES_SECONDS)
        if self.marker.unmarked:
            _log.warning(
                "%d confirmed rows could not be marked; they will be sent again after their lease",
                self.marker.unmarked,
            )
        await self.work_link.close()
        await self.mark_link.close()

    async def _last_writes(self) -> None:
        """Release what was not sent, and let other senders have at once what a broken route held back."""
        try:
            await self.feeder.write_setbacks()
            for breaker in self.pump.breakers:
                await self._wake_route(breaker)
        except TROUBLE as error:
            _log.debug("rows stay leased until their lease ends: %s", error)

    async def _wake_route(self, breaker: Breaker) -> None:
        exchange, routing_key = breaker.route
        await self.work_link.run(lambda store: store.wake_route(exchange, routing_key))

    async def _until(self, ready: Callable[[], bool], deadline: float) -> None:
        while not ready() and self.publisher.status == "connected" and time.monotonic() < deadline:
            await self.wait_for_change(deadline - time.monotonic())

    async def _claim(self, store: OutboxStore, limit: int) -> list[OutboxRow]:
        return await store.claim(limit, self.settings.lease_seconds)

    # The publisher's and pump's callbacks. They are set before pump and feeder exist, hence methods and no lambdas.

    def _confirmed(self, keys: list[Hashable]) -> None:
        self.pump.confirmed(keys)

    def _settled(self, outcomes: Sequence[Settled]) -> None:
        self.pump.settled(outcomes)

    def _mark(self, ids: list[UUID], last: OutboxRow) -> None:
        self.marker.add(ids)
        if self.clock_lead is not None:
            # One row of a batch stands for it: observing each would cost more than it tells.
            age = datetime.now(UTC) + self.clock_lead - last.created_at
            self.metrics.commit_to_confirm_seconds.observe(max(0.0, age.total_seconds()))

    def _marked(self, count: int) -> None:
        self.metrics.sent.inc(count)
        self._changed()

    def _changed(self) -> None:
        status = self.publisher.status
        if status != self._status:
            self._status = status
            self.status_changed.set()
            if status == "connected":
                self.feeder.wake.set()
            elif status != "reopening":
                self.pump.give_back(f"broker {status}: {self.publisher.state.detail}")
        self.pump.paused = self._ending or self.marker.is_full
        self.pump.run()
        self.feeder.changed()
        self._moved.set()

    def _wake(self) -> None:
        self.feeder.wake.set()

    def _tripped(self, breaker: Breaker) -> None:
        exchange, routing_key = breaker.route
        if breaker.trips == 1:
            _log.warning("exchange %r, routing key %r takes no messages: %s", exchange, routing_key, breaker.reason)
        self._gauged.add(breaker.route)
        self.metrics.breaker_open.set(1, exchange=exchange, routing_key=routing_key)

    def _recovers(self, _: Breaker) -> None:
        self.feeder.wake.set()

    def _whole(self, breaker: Breaker) -> None:
        exchange, routing_key = breaker.route
        _log.info("exchange %r, routing key %r has nothing put off any more", exchange, routing_key)
        self.sweep_gauges()
