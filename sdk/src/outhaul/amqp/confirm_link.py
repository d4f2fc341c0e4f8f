"""Keeps one confirm channel open: reconnects with full jitter, and drops a link on which confirms are overdue."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable
from typing import Any

from outhaul.amqp.broker import abort_connection, close_connection, describe, open_connection
from outhaul.amqp.confirm_channel import ConfirmChannel
from outhaul.amqp.outgoing import Settled
from outhaul.amqp.window import Window
from outhaul.backoff import Backoff
from outhaul.errors import BrokerUnreachable, ConfigurationError
from outhaul.metrics import Metrics
from outhaul.settings import BrokerSettings

_log = logging.getLogger(__name__)

CLOSE_SECONDS = 3.0


class ConfirmLink:
    """One connection, and on it one channel after another. ``channel`` is None while there is none.

    ``on_change()`` is called when the channel came, went, was blocked or unblocked; the others as for ConfirmChannel.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        name: str,
        window_messages: int,
        window_bytes: int,
        confirm_timeout_seconds: float,
        metrics: Metrics,
        on_confirmed: Callable[[list[Hashable]], None],
        on_settled: Callable[[list[Settled]], None],
        on_change: Callable[[], None],
    ) -> None:
        self.channel: ConfirmChannel | None = None
        self.connection: Any = None
        self.blocked = ""
        self.why = "not started"
        self._settings = settings
        self._name = name
        self._window_messages = window_messages
        self._window_bytes = window_bytes
        self._confirm_timeout_seconds = confirm_timeout_seconds
        self._metrics = metrics
        self._on_confirmed = on_confirmed
        self._on_settled = on_settled
        self._on_change = on_change
        self._backoff = Backoff(base_seconds=0.1, cap_seconds=5.0)
        self._closing = asyncio.Event()
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_closing(self) -> bool:
        """Whether ``close()`` has been called."""
        return self._closing.is_set()

    @property
    def status(self) -> str:
        """``starting``, ``connected``, ``blocked``, ``reopening``, ``disconnected`` or ``closed``."""
        if self._closing.is_set():
            return "closed"
        if self.channel is not None:
            return "blocked" if self.blocked else "connected"
        if self.connection is not None and self.connection.is_open:
            return "reopening"
        return "starting" if self.why in {"not started", "connecting"} else "disconnected"

    def start(self) -> None:
        """Begin to connect, on the running loop."""
        if self._tasks or self._closing.is_set():
            return
        self.why = "connecting"
        # Said from the start on, so that one who never gets a connection is seen as well.
        self._metrics.connected.set(0, role="publisher")
        self._metrics.broker_blocked.set(0)
        self._tasks = {
            asyncio.create_task(self._run(), name=f"{self._name}: connection"),
            asyncio.create_task(self._watch_deadline(), name=f"{self._name}: confirm deadline"),
        }

    async def close(self) -> None:
        """Close in order, or after a few seconds without; what is in flight settles as UNKNOWN."""
        self._closing.set()
        self._ended.set()
        self._on_change()  # whoever waits for room sees that there will be none
        if not self._tasks:
            return
        if self.connection is None:
            self._cancel()  # a connection that is only being made has nothing to end in order
        _, late = await asyncio.wait(self._tasks, timeout=2 * CLOSE_SECONDS)
        if late:
            self._cancel()
            await asyncio.wait(late, timeout=2 * CLOSE_SECONDS)
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                _log.error("%s failed", task.get_name(), exc_info=error)

    def recovered(self) -> None:
        """A message was confirmed: the next outage starts with short pauses again."""
        self._backoff.reset()

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._ended.clear()
                connection = await open_connection(
                    self._settings, name=self._name, on_closed=self._closed, on_blocked=self._block
                )
            except (BrokerUnreachable, ConfigurationError) as error:
                # A password file that is being rotated is unreadable for a moment: an outage, like the broker's own.
                self._report(str(error))
            else:
                self.connection = connection
                try:
                    await self._serve(connection)
                finally:
                    self.connection = None
                    self._block_over()
                    await close_connection(connection, timeout_seconds=CLOSE_SECONDS)
            await self._pause()

    async def _serve(self, connection: Any) -> None:
        """Keep a confirm channel open on the connection until either of the two ends."""
        while connection.is_open and not self._closing.is_set():
            self._ended.clear()
            try:
                channel = await ConfirmChannel.open(
                    connection,
                    Window(max_messages=self._window_messages, max_bytes=self._window_bytes),
                    timeout_seconds=self._confirm_timeout_seconds,
                    on_confirmed=self._on_confirmed,
                    on_settled=self._on_settled,
                    on_ended=self._channel_ended,
                    on_latency=self._metrics.publish_confirm_seconds.observe,
                )
            except BrokerUnreachable as error:
                self._report(str(error))
                return
            if self._closing.is_set() or not connection.is_open:
                return
            self.channel = channel
            self._metrics.connected.set(1, role="publisher")
            self._on_change()
            await self._ended.wait()
            self.channel = None
            if not channel.answered:
                # Nothing came back on it: the next one would likely fare no better at once.
                await self._pause()

    async def _pause(self) -> None:
        if not self._closing.is_set():
            await self._closing_within(self._backoff.next_seconds())

    async def _closing_within(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return

    async def _watch_deadline(self) -> None:
        """A confirm overdue means a link that is half-open: the heartbeat would notice only much later."""
        timeout_seconds = self._confirm_timeout_seconds
        while not self._closing.is_set():
            await self._closing_within(min(1.0, timeout_seconds / 4))
            channel = self.channel
            if channel is None or self.blocked:
                continue
            if channel.window.overdue(time.monotonic(), timeout_seconds):
                why = f"no confirm within {timeout_seconds:g} s"
                channel.give_up(BrokerUnreachable(self._settings.address, why), timeout_seconds)
                if self.connection is not None:
                    abort_connection(self.connection, why)

    def _channel_ended(self, answered: bool, why: str) -> None:
        self.channel = None
        self._metrics.connected.set(0, role="publisher")
        if answered:
            self._backoff.reset()
        if why and not self._closing.is_set():
            self._report(why)
        self._ended.set()
        self._on_change()

    def _closed(self, error: Exception) -> None:
        if not self._closing.is_set():
            self._metrics.connections_lost.inc(role="publisher")
            self._report(describe(error))
        self._ended.set()

    def _block(self, blocked: bool, why: str) -> None:
        self.blocked = (why or "blocked") if blocked else ""
        self._metrics.broker_blocked.set(int(blocked))
        if blocked:
            _log.warning("broker %s takes no messages: %s", self._settings.address, why)
        else:
            _log.info("broker %s takes messages again", self._settings.address)
        self._on_change()

    def _block_over(self) -> None:
        if self.blocked:
            self.blocked = ""
            self._metrics.broker_blocked.set(0)

    def _report(self, why: str) -> None:
        """Say once why there is no channel; the same reason again and again would only fill the log."""
        if why != self.why:
            _log.warning("not publishing to %s: %s", self._settings.address, why)
        self.why = why
