"""What a user makes a consumer of: a name, a queue, a database, and functions that handle messages.

    consumer = Consumer("shipping", queue="shop.waybill", dsn=..., amqp_url=...)

    @consumer.handler("shop.order.created.v1", data=OrderCreated)
    def make_waybill(message, tx):
        tx.execute(...)

    consumer.run()

The effect of a message and the note that it was handled are committed in one transaction, so each message takes
effect once per consumer however often it is delivered.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import psycopg

from outhaul.alerts import Alerter
from outhaul.consuming.delivery import Delivery, Outcome, Result
from outhaul.consuming.handlers import Registry
from outhaul.consuming.preparation import Rules
from outhaul.consuming.ramp import Ramp
from outhaul.consuming.runtime import ConsumerState, Fittings, Running
from outhaul.consuming.sessions import AsyncSession, SyncSession
from outhaul.consuming.steps import Steps
from outhaul.consuming.watchdog import check_handler_timeout
from outhaul.consuming.worker import Pace
from outhaul.errors import ConfigurationError, ForkedProcess, OuthaulError
from outhaul.inbox import Inbox, Report
from outhaul.message import SHORT_STRING_BYTES
from outhaul.metrics import Metrics
from outhaul.retry import Retry
from outhaul.settings import BrokerSettings, DatabaseSettings

F = TypeVar("F", bound=Callable[[Any, Any], Any])
_LONGEST_NAME = 100
_IDLE_ALLOWANCE_SECONDS = 10.0


class Consumer:
    """Handles the messages of one queue, each with one effect. Made without any I/O.

    ``name`` is the key of its inbox: a consumer that is renamed knows no message any more. ``retry`` must agree with
    the delay tiers the queue was declared with. ``retention`` is how long it remembers messages (at least a day): an
    older one is dead-lettered as ``too-old``. ``prefetch`` bounds the messages held, ``batch_size`` those of one
    transaction; ``linger_seconds`` waits for a full batch, which is seldom worth it: the next one gathers while one is
    worked on. A handler call longer than ``handler_timeout_seconds`` ends the process with exit code 70;
    ``broker_consumer_timeout_seconds`` is the broker's own limit (RabbitMQ: 30 min), which must lie well above.
    A redelivered message is dead-lettered after ``max_crashes`` runs that were never seen to end.
    ``prepared_statements`` are used only on a connection straight to the server. ``shutdown_seconds`` bounds an
    orderly stop; keep it below the grace period of whatever sends SIGTERM. ``leave`` ends the process (tests).

    Raises ConfigurationError.
    """

    def __init__(
        self,
        name: str,
        *,
        queue: str,
        dsn: str | DatabaseSettings | None = None,
        amqp_url: str | BrokerSettings | None = None,
        retry: Retry | None = None,
        retention: timedelta = timedelta(days=30),
        prefetch: int = 500,
        batch_size: int = 100,
        linger_seconds: float = 0.0,
        handler_timeout_seconds: float = 60.0,
        broker_consumer_timeout_seconds: float = 1800.0,
        max_crashes: int = 5,
        max_message_bytes: int = 4 * 1024 * 1024,
        prepared_statements: bool = True,
        shutdown_seconds: float = 20.0,
        metrics: Metrics | None = None,
        alerter: Alerter | None = None,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        _check_name("Consumer name", name, _LONGEST_NAME)
        # The longest name derived from it, a delay tier's, must fit too.
        _check_name("queue", queue, SHORT_STRING_BYTES - 24)
        _check_at_least("batch_size", batch_size, 1)
        _check_at_least("linger_seconds", linger_seconds, 0)
        _check_at_least("max_crashes", max_crashes, 1)
        _check_at_least("max_message_bytes", max_message_bytes, 1)
        _check_at_least("shutdown_seconds", shutdown_seconds, 0.1)
        if retention < timedelta(days=1):
            raise ConfigurationError("retention", str(retention), "must be at least a day")
        check_handler_timeout(handler_timeout_seconds, broker_consumer_timeout_seconds)
        self.name = name
        self.queue = queue
        self.registry = Registry()
        self.metrics = metrics or Metrics.off()
        Ramp(prefetch)
        cut_seconds = min(5.0, shutdown_seconds / 4)
        self._fittings = Fittings(
            rules=Rules(
                consumer=name,
                queue=queue,
                retry=retry or Retry(),
                retention=retention,
                max_crashes=max_crashes,
                max_message_bytes=max_message_bytes,
                cut_seconds=cut_seconds,
                # Handlers may be silent for this long, and are ended before it.
                idle_seconds=cut_seconds + handler_timeout_seconds + _IDLE_ALLOWANCE_SECONDS,
            ),
            registry=self.registry,
            pace=Pace(batch_size=batch_size, linger_seconds=linger_seconds),
            prefetch=prefetch,
            handler_timeout_seconds=handler_timeout_seconds,
            shutdown_seconds=shutdown_seconds,
            prepared_statements=prepared_statements,
            metrics=self.metrics,
            alerter=alerter or Alerter(),
            leave=leave,
        )
        self._database = None if dsn is None else DatabaseSettings.parse(dsn)
        self._broker = None if amqp_url is None else BrokerSettings.parse(amqp_url)
        self._running: Running | None = None
        self._stop_asked = threading.Event()
        self._on_stop: Callable[[], None] | None = None

    def handler(self, event_type: str, *, data: Any = None) -> Callable[[F], F]:
        """The function that takes one message of this CloudEvents type: ``function(message, tx)``.

        ``message`` is an Event whose data is the model ``data``; ``tx`` the connection, its transaction open, with the
        inbox row already in it. Returning means success, Reject means never, anything else raised means later. Raises
        ConfigurationError.
        """

        def register(function: F) -> F:
            self._check_not_running()
            self.registry.add(event_type, function, data=data, batch=False)
            return function

        return register

    def batch_handler(self, event_type: str, *, data: Any = None) -> Callable[[F], F]:
        """The function that takes a set of messages: ``function(messages, tx)``, for set-wise SQL.

        When it raises, everything is undone and it is called again, with one message at a time. Else as ``handler``.
        """

        def register(function: F) -> F:
            self._check_not_running()
            self.registry.add(event_type, function, data=data, batch=True)
            return function

        return register

    def process(self, conn: psycopg.Connection[Any], deliveries: Sequence[Delivery]) -> list[Outcome]:
        """Handle deliveries over this connection, without a broker: for tests. Returns an outcome for each, in order.

        In a transaction of the caller's everything stays in it (in savepoints), else it is committed. What a consumer
        would publish is in the outcomes. Raises what is no message's fault (the database away, a deadlock).
        """
        outcomes: list[Outcome] = []
        deliveries = _apart(deliveries)
        SyncSession(connection=conn).drive(_process(self._inbox(), deliveries, outcomes.extend))
        return _in_order(deliveries, outcomes)

    async def process_async(self, conn: psycopg.AsyncConnection[Any], deliveries: Sequence[Delivery]) -> list[Outcome]:
        """As ``process``, for a consumer with async handlers."""
        outcomes: list[Outcome] = []
        deliveries = _apart(deliveries)
        await AsyncSession(connection=conn).drive(_process(self._inbox(), deliveries, outcomes.extend))
        return _in_order(deliveries, outcomes)

    def run(self) -> None:
        """Consume until SIGTERM, SIGINT or ``stop()``, then finish what is in flight and return.

        Raises ConfigurationError at once, OuthaulError when the consumer failed.
        """
        asyncio.run(self._run())

    def stop(self) -> None:
        """Make ``run`` return. From any thread, or a signal handler."""
        self._stop_asked.set()
        on_stop = self._on_stop
        if on_stop is not None:
            on_stop()

    def start(self) -> None:
        """Start consuming in the background; neither broker nor database need be there yet. Sync handlers only."""
        if self.registry.is_async:
            raise ConfigurationError("handlers", "async", "use `async with consumer` or consumer.run()")
        self._launch().start_thread()

    def close(self) -> None:
        """Take nothing more, finish what is in flight within ``shutdown_seconds``, flush acks, disconnect."""
        running, self._running = self._checked(), None
        if running is not None:
            running.close()

    async def __aenter__(self) -> Self:
        """Start consuming in the background; neither broker nor database need be there yet.

        Async handlers run on this event loop, sync ones in a thread.
        """
        running = self._launch()
        if self.registry.is_async:
            running.start_task()
        else:
            running.start_thread()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As ``close``."""
        running, self._running = self._checked(), None
        if running is not None:
            await running.aclose()

    def __enter__(self) -> Self:
        """As ``start``."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As ``close``."""
        self.close()

    @property
    def database(self) -> DatabaseSettings | None:
        """Where its inbox is, as far as it was told."""
        return self._database

    @property
    def active(self) -> bool:
        """Whether it is subscribed and able to work: what readiness asks."""
        running = self._checked()
        return running is not None and running.failure is None and running.link.active

    @property
    def heartbeat_age_seconds(self) -> float:
        """How long ago its loops last turned: what liveness asks. A minute is much; a handler at work does not count,
        for that has a timeout of its own.
        """
        running = self._checked()
        return 0.0 if running is None else running.heartbeat_age_seconds

    @property
    def state(self) -> ConsumerState:
        """How it stands now."""
        running = self._checked()
        if running is None:
            return ConsumerState("stopped", "", 0)
        return running.state

    def _launch(self) -> Running:
        if self._checked() is not None:
            raise ConfigurationError("consumer", self.name, "is running already")
        if self._database is None:
            raise ConfigurationError("dsn", None, "is missing: a running consumer needs its database")
        if self._broker is None:
            raise ConfigurationError("amqp_url", None, "is missing: a running consumer needs its broker")
        if not len(self.registry):
            raise ConfigurationError("handlers", "none", "register one: every message would be a dead letter")
        self._running = Running(self._fittings, self._database, self._broker)
        return self._running

    def _inbox(self) -> Inbox:
        # The transaction is the caller's, and so is how long it may be silent: in a debugger, for one.
        return Inbox(replace(self._fittings.rules, idle_seconds=0.0), self.registry)

    def _checked(self) -> Running | None:
        running = self._running
        if running is not None and running.pid != os.getpid():
            raise ForkedProcess("this consumer was started before a fork; start one in the child process")
        return running

    def _check_not_running(self) -> None:
        if self._running is not None:
            raise ConfigurationError("handler", self.name, "register handlers before the consumer is started")

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()

        def on_stop() -> None:
            loop.call_soon_threadsafe(stopped.set)

        self._on_stop = on_stop
        with _signals(loop, stopped.set):
            try:
                async with self:
                    assert self._running is not None
                    self._running.on_failure = on_stop
                    if not self._stop_asked.is_set() and self._running.failure is None:
                        await stopped.wait()
                    failure = self._running.failure
            finally:
                self._on_stop = None
                self._stop_asked.clear()
        if failure is not None:
            raise OuthaulError(f"consumer {self.name} ended: {failure!r}") from failure


def _process(inbox: Inbox, deliveries: Sequence[Delivery], report: Report) -> Steps[None]:
    left: list[Delivery] = list(deliveries)
    dead: list[str] = []

    def collect(outcomes: Sequence[Outcome]) -> None:
        report(outcomes)
        dead.extend(o.message_id for o in outcomes if o.result is Result.DEAD_LETTERED and o.message_id)

    while left:
        left, held = yield from inbox.process(left, collect)
        if held is not None:
            raise held.__cause__ or held
    yield from inbox.clear(dead)


def _apart(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Each an object of its own, also where the same one is given twice."""
    return [delivery._replace() for delivery in deliveries]


def _in_order(deliveries: Sequence[Delivery], outcomes: list[Outcome]) -> list[Outcome]:
    by_delivery = {id(outcome.delivery): outcome for outcome in outcomes}
    return [by_delivery[id(delivery)] for delivery in deliveries]


@contextmanager
def _signals(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT ask for an orderly stop, where this is the main thread."""
    installed = []
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop)
        except (NotImplementedError, RuntimeError, ValueError):
            continue  # no main thread, or no Unix: then stop() is the way
        installed.append(number)
    try:
        yield
    finally:
        for number in installed:
            loop.remove_signal_handler(number)


def _check_name(setting: str, value: str, longest: int) -> None:
    if not value or "\x00" in value or not value.isprintable():
        raise ConfigurationError(setting, value, "must be printable text, not empty")
    if len(value.encode()) > longest:
        raise ConfigurationError(setting, value[:40] + "…", f"must be at most {longest} bytes")


def _check_at_least(setting: str, value: float, least: float) -> None:
    if not value >= least:
        raise ConfigurationError(setting, value, f"must be at least {least:g}")
