"""The moving parts of a started consumer: the link's thread, the worker's thread or task, the watchdog."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from outhaul.alerts import Alerter
from outhaul.consuming.handlers import Registry
from outhaul.consuming.link import Link
from outhaul.consuming.mailbox import IsLate, LoopMailbox, Mailbox, Pause, Take, ThreadMailbox
from outhaul.consuming.preparation import Rules
from outhaul.consuming.ramp import Ramp
from outhaul.consuming.sessions import AsyncSession, SyncSession
from outhaul.consuming.watchdog import Watchdog
from outhaul.consuming.worker import Pace, Worker
from outhaul.database import inbox_queries
from outhaul.database.pooler import never_prepare_through_a_pooler, never_prepare_through_a_pooler_sync
from outhaul.deadletter import tidy
from outhaul.errors import DatabaseUnreachable
from outhaul.events import Event
from outhaul.inbox import Inbox
from outhaul.metrics import Metrics
from outhaul.settings import BrokerSettings, DatabaseSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConsumerState:
    """How a consumer stands: ``stopped``, ``starting``, ``consuming``, ``outage`` (its database is away),
    ``disconnected`` (the broker is away, or the queue missing), ``closing`` or ``failed``. ``detail`` says why.
    """

    status: str
    detail: str
    prefetch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fittings:
    """What a consumer was made with, checked. Times in seconds."""

    rules: Rules
    registry: Registry
    pace: Pace
    prefetch: int
    handler_timeout_seconds: float
    shutdown_seconds: float
    prepared_statements: bool
    metrics: Metrics
    alerter: Alerter
    leave: Callable[[int], object]


class Running:
    """The moving parts of one started consumer: the link's thread, the worker, the watchdog."""

    def __init__(self, fittings: Fittings, database: DatabaseSettings, broker: BrokerSettings) -> None:
        rules = fittings.rules
        self.pid = os.getpid()
        self.failure: BaseException | None = None
        self.on_failure: Callable[[], None] | None = None
        self._fittings = fittings
        self._name = rules.consumer
        self._database = database
        self._mailbox = Mailbox()
        self._watchdog = Watchdog(fittings.handler_timeout_seconds, record=self._record_hang, leave=fittings.leave)
        self.link = Link(
            broker,
            queue=rules.queue,
            consumer=rules.consumer,
            ramp=Ramp(fittings.prefetch),
            mailbox=self._mailbox,
            metrics=fittings.metrics,
            alerter=fittings.alerter,
        )
        inbox = Inbox(rules, fittings.registry)
        self._worker = Worker(inbox, self.link, fittings.pace, fittings.metrics, fittings.alerter)
        self.link.on_ended = self._worker.ended
        self._closing = False
        self._link_loop: asyncio.AbstractEventLoop | None = None
        self._link_ready = threading.Event()
        self._link_thread = threading.Thread(target=self._run_link, name=f"outhaul {self._name} link", daemon=True)
        self._worker_thread: threading.Thread | None = None
        self._worker_task: asyncio.Task[None] | None = None
        self._beat: ThreadMailbox | LoopMailbox | None = None

    @property
    def heartbeat_age_seconds(self) -> float:
        """How long ago the slower of the two loops last turned; a handler at work does not count."""
        now = time.monotonic()
        ages = [now - self.link.beat]
        if self._beat is not None and not self._watchdog.is_busy:
            ages.append(now - max(self._beat.beat, self._watchdog.ended_at))
        return max(ages)

    @property
    def state(self) -> ConsumerState:
        """How it stands now."""
        link, outage = self.link, self._worker.outage
        if self.failure is not None:
            return ConsumerState("failed", repr(self.failure), link.prefetch)
        if self._closing:
            return ConsumerState("closing", "", link.prefetch)
        if outage == "starting":
            return ConsumerState("starting", "", link.prefetch)
        if outage:
            return ConsumerState("outage", outage, link.prefetch)
        if link.active:
            return ConsumerState("consuming", "", link.prefetch)
        return ConsumerState("disconnected", link.trouble, link.prefetch)

    def start_thread(self) -> None:
        """Sync handlers: a thread of their own."""
        mailbox = self._beat = ThreadMailbox(self._mailbox)
        session = SyncSession(
            connect=self._connect,
            watch=self._watchdog,
            also={Take: mailbox.take, Pause: mailbox.pause, IsLate: lambda _: self._mailbox.is_late},
        )
        self._start_link()
        self._worker_thread = threading.Thread(
            target=self._run_worker, args=(session,), name=f"outhaul {self._name} worker", daemon=True
        )
        self._worker_thread.start()

    def start_task(self) -> None:
        """Async handlers: a task on the running loop."""
        mailbox = self._beat = LoopMailbox(self._mailbox)

        async def is_late(_: IsLate) -> bool:
            return self._mailbox.is_late

        session = AsyncSession(
            connect=self._connect_async,
            watch=self._watchdog,
            also={Take: mailbox.take, Pause: mailbox.pause, IsLate: is_late},
        )
        self._start_link()
        self._worker_task = asyncio.get_running_loop().create_task(
            self._work_async(session), name=f"outhaul {self._name} worker"
        )

    def close(self) -> None:
        """Quiesce, drain, flush, disconnect; blocks for at most about ``shutdown_seconds``."""
        deadline = time.monotonic() + self._fittings.shutdown_seconds
        self._quiesce()
        if self._worker_thread is not None:
            self._worker_thread.join(max(0.0, deadline - time.monotonic()))
            if self._worker_thread.is_alive():
                self._warn_overrun()
        self._stop_link(deadline)

    async def aclose(self) -> None:
        """As ``close``, from an event loop."""
        if self._worker_task is None:
            await asyncio.to_thread(self.close)
            return
        deadline = time.monotonic() + self._fittings.shutdown_seconds
        await asyncio.to_thread(self._quiesce)
        done, _ = await asyncio.wait([self._worker_task], timeout=max(0.0, deadline - time.monotonic()))
        if not done:
            self._warn_overrun()
            self._worker_task.cancel()
            await asyncio.wait([self._worker_task], timeout=1.0)
        await asyncio.to_thread(self._stop_link, deadline)

    def _start_link(self) -> None:
        self._watchdog.start()
        self._link_thread.start()
        self._link_ready.wait()

    def _run_link(self) -> None:
        try:
            asyncio.run(self._link_main())
        except BaseException as error:  # noqa: BLE001 - a thread's end must not go unseen, whatever ended it
            self._fail(error)

    async def _link_main(self) -> None:
        self._link_loop = asyncio.get_running_loop()
        self._link_loop.call_soon(self._link_ready.set)
        await self.link.run()

    def _run_worker(self, session: SyncSession) -> None:
        try:
            session.drive(self._worker.run())
        except BaseException as error:  # noqa: BLE001 - as above
            self._fail(error)
        finally:
            session.close()

    async def _work_async(self, session: AsyncSession) -> None:
        try:
            await session.drive(self._worker.run())
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(error)
        finally:
            await session.close()

    def _fail(self, error: BaseException) -> None:
        """A defect of ours: nothing is consumed any more, and liveness, state and ``run`` all say so."""
        self.failure = error
        _log.critical("consumer %s ended", self._name, exc_info=error)
        self.link.pause(f"the consumer failed: {error!r}")
        if self.on_failure is not None:
            self.on_failure()

    def _quiesce(self) -> None:
        """Nothing more comes in; the worker finishes what is there."""
        self._closing = True
        if self._link_loop is not None and self._link_thread.is_alive():
            asyncio.run_coroutine_threadsafe(
                self.link.quiesce(self._fittings.shutdown_seconds / 4), self._link_loop
            ).result()
        self._mailbox.end(drain_seconds=self._fittings.shutdown_seconds / 2)

    def _stop_link(self, deadline: float) -> None:
        if self._link_loop is not None and self._link_thread.is_alive():
            letters_seconds = max(0.5, deadline - time.monotonic())
            asyncio.run_coroutine_threadsafe(self.link.stop(letters_seconds=letters_seconds), self._link_loop).result()
            # Over a half-open link even the closing takes its time, which is not ours: the thread is a daemon.
            self._link_thread.join(max(2.0, deadline - time.monotonic()))
        self._watchdog.stop()

    def _warn_overrun(self) -> None:
        _log.warning(
            "consumer %s: a handler is still running after %g s; its messages go back to the queue",
            self._name,
            self._fittings.shutdown_seconds,
        )

    def _connect(self) -> psycopg.Connection[Any]:
        threshold = 5 if self._fittings.prepared_statements else None
        try:
            conn = psycopg.connect(self._database.conninfo(), autocommit=True, prepare_threshold=threshold)
            never_prepare_through_a_pooler_sync(conn)
        except psycopg.Error as error:
            raise DatabaseUnreachable(self._database.address, tidy(str(error))) from error
        return conn

    async def _connect_async(self) -> psycopg.AsyncConnection[Any]:
        threshold = 5 if self._fittings.prepared_statements else None
        try:
            conn = await psycopg.AsyncConnection.connect(
                self._database.conninfo(), autocommit=True, prepare_threshold=threshold
            )
            await never_prepare_through_a_pooler(conn)
        except psycopg.Error as error:
            raise DatabaseUnreachable(self._database.address, tidy(str(error))) from error
        return conn

    def _record_hang(self, events: Sequence[Event]) -> None:
        """Only a message that ran alone: of a set, which one hangs shows when they come back one by one."""
        self._fittings.metrics.handler_timeouts.inc()
        if len(events) == 1:
            with psycopg.connect(self._database.conninfo(), autocommit=True, prepare_threshold=None) as conn:
                text = "the handler ran into its timeout"
                conn.execute(inbox_queries.RECORD_HANG, (self._name, str(events[0].id), text))
