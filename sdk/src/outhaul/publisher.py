"""Publishes with confirms over one connection that mends itself. Unknown is never treated as sent.

A publisher starts without the broker, reconnects with full jitter, and proves each new connection with a single
message before it fills the window again: a broker in memory alarm accepts connections and then reads nothing. It never
consumes: a blocked connection delivers nothing either.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from outhaul.amqp.confirm_link import ConfirmLink
from outhaul.amqp.outgoing import Outcome, Outgoing, Settled
from outhaul.errors import ConfigurationError, ForkedProcess
from outhaul.metrics import Metrics
from outhaul.settings import BrokerSettings

__all__ = ["Outcome", "Outgoing", "Publisher", "PublisherState", "Settled"]

_log = logging.getLogger(__name__)

WINDOW_MESSAGES = 500
WINDOW_BYTES = 8 * 1024 * 1024
CONFIRM_TIMEOUT_SECONDS = 30.0
DRAIN_SECONDS = 3.0
_MAY_HAVE_ARRIVED = frozenset({Outcome.UNKNOWN, Outcome.UNCONFIRMED})


@dataclass(frozen=True, slots=True)
class PublisherState:
    """How the publisher stands: ``starting``, ``connected``, ``blocked``, ``reopening``, ``disconnected``, ``closed``.

    ``detail`` says why in words, ``unconfirmed`` counts messages in flight, ``proven`` whether the broker has
    answered on this connection.
    """

    status: str
    detail: str
    unconfirmed: int
    proven: bool


def _nothing(*_: object) -> None:
    """A callback nobody asked for."""


class Publisher:
    """One window of unconfirmed messages over one connection. ``async with`` starts it and drains it.

    Two ways to use it, never at once: ``await send()`` for single messages, or ``publish()`` while ``has_room()``,
    with the outcomes coming to ``on_confirmed(keys)`` (the many that went well) and ``on_settled(outcomes)`` (all
    others; without ``on_confirmed`` the good ones too) in batches. ``on_change()`` is called when connection or room
    may have changed. The callbacks run on the event loop, must be quick and must not raise: an exception there closes
    the connection.

    ``confirm_timeout_seconds`` bounds the wait for a confirm; past it the link counts as half-open and is
    dropped. A blocked broker has ``blocked_timeout_seconds`` of its settings instead.
    """

    def __init__(
        self,
        broker: BrokerSettings | str,
        *,
        on_settled: Callable[[Sequence[Settled]], None] | None = None,
        on_confirmed: Callable[[list[Hashable]], None] | None = None,
        on_change: Callable[[], None] | None = None,
        window_messages: int = WINDOW_MESSAGES,
        window_bytes: int = WINDOW_BYTES,
        confirm_timeout_seconds: float = CONFIRM_TIMEOUT_SECONDS,
        name: str = "outhaul publisher",
        metrics: Metrics | None = None,
    ) -> None:
        if window_messages < 1:
            raise ConfigurationError("window_messages", window_messages, "must be at least 1")
        if window_bytes < 1:
            raise ConfigurationError("window_bytes", window_bytes, "must be at least 1")
        if confirm_timeout_seconds <= 0:
            raise ConfigurationError("confirm_timeout_seconds", confirm_timeout_seconds, "must be above 0")
        self._settings = BrokerSettings.parse(broker)
        self._notify_settled = on_settled or _nothing
        self._notify_confirmed = on_confirmed or self._confirm_as_settled
        self._notify_change = on_change or _nothing
        self._metrics = metrics or Metrics.off()
        self._link = ConfirmLink(
            self._settings,
            name=name,
            window_messages=window_messages,
            window_bytes=window_bytes,
            confirm_timeout_seconds=confirm_timeout_seconds,
            metrics=self._metrics,
            on_confirmed=self._confirmed,
            on_settled=self._outcomes,
            on_change=self._changed,
        )
        self._settled = asyncio.Event()
        self._alone = asyncio.Lock()
        self._pid = os.getpid()

    async def __aenter__(self) -> Self:
        """Start connecting; does not wait for the broker."""
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for outstanding confirms, bounded, and close."""
        await self.close()

    @property
    def settings(self) -> BrokerSettings:
        """Where it publishes to."""
        return self._settings

    @property
    def status(self) -> str:
        """``starting``, ``connected``, ``blocked``, ``reopening``, ``disconnected`` or ``closed``.

        ``reopening``: a message made the broker close the channel; the connection is well.
        """
        return self._link.status

    @property
    def proven(self) -> bool:
        """Whether the broker has answered on this connection."""
        return self._link.channel is not None and self._link.channel.answered

    @property
    def state(self) -> PublisherState:
        """How it stands now."""
        link, status = self._link, self.status
        detail = link.blocked if status == "blocked" else link.why if link.channel is None else ""
        return PublisherState(status, detail, self.unconfirmed, proven=self.proven)

    @property
    def unconfirmed(self) -> int:
        """How many messages are in flight."""
        channel = self._link.channel
        return len(channel.window) if channel is not None else 0

    def has_room(self, size_bytes: int = 0) -> bool:
        """Whether a message of that size may be published now: connected, not blocked, room in the window."""
        channel = self._link.channel
        if channel is None or self._link.blocked:
            return False
        if not channel.answered and len(channel.window):
            return False
        return channel.window.has_room(size_bytes)

    def publish(self, outgoing: Outgoing) -> Settled | None:
        """Hand over one message after ``has_room()``; None when it is on its way, else why it is not.

        The outcome of a message on its way comes to the callbacks, always, and once.
        """
        channel = self._link.channel
        if channel is None:
            return Settled(outgoing.key, Outcome.UNKNOWN, f"not published: {self._link.why}")
        return channel.publish(outgoing)

    async def send(self, outgoing: Outgoing, *, timeout_seconds: float) -> Settled:
        """Publish one message and wait for what became of it, the broker's absence included, up to the deadline.

        A message whose channel was closed by another message's fault is sent again alone; so each outcome is the
        message's own. UNKNOWN after the deadline: it may have arrived. Raises ForkedProcess.
        """
        if os.getpid() != self._pid:
            raise ForkedProcess("this publisher was started before a fork; start one in the child process")
        settled = Settled(outgoing.key, Outcome.UNKNOWN, f"not sent within {timeout_seconds:g} s")
        try:
            async with asyncio.timeout(timeout_seconds):
                settled = await self._attempt(outgoing)
                while settled.outcome in _MAY_HAVE_ARRIVED and not self._link.is_closing:
                    async with self._alone:
                        await self._wait_until(lambda: self.unconfirmed == 0 and self.has_room())
                        settled = await self._attempt(outgoing)
        except TimeoutError:
            why = self.state.detail or settled.detail
            return Settled(outgoing.key, Outcome.UNKNOWN, f"no confirm within {timeout_seconds:g} s: {why}")
        return settled

    def start(self) -> None:
        """Begin to connect in the background. Needs the running loop."""
        if os.getpid() != self._pid:
            raise ForkedProcess("this publisher was made before a fork; make one in the child process")
        self._link.start()

    async def close(self, *, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Wait up to ``drain_seconds`` for outstanding confirms, then close; what is left settles as UNKNOWN."""
        try:
            async with asyncio.timeout(drain_seconds):
                await self._wait_until(lambda: self.unconfirmed == 0)
        except TimeoutError:
            _log.warning("closing with %d messages unconfirmed: they are not sent", self.unconfirmed)
        await self._link.close()

    async def _attempt(self, outgoing: Outgoing) -> Settled:
        """Publish when there is room and wait for the outcome."""
        await self._wait_until(lambda: self.has_room(len(outgoing.body)))
        waiter: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()
        at_once = self.publish(
            Outgoing(
                key=_Waiter(waiter),
                exchange=outgoing.exchange,
                routing_key=outgoing.routing_key,
                body=outgoing.body,
                message_id=outgoing.message_id,
                type=outgoing.type,
                content_type=outgoing.content_type,
                headers=outgoing.headers,
            )
        )
        settled = at_once if at_once is not None else await waiter
        return Settled(outgoing.key, settled.outcome, settled.detail)

    async def _wait_until(self, ready: Callable[[], bool]) -> None:
        while not ready():
            if self._link.is_closing:
                raise TimeoutError("the publisher is closing")
            self._settled.clear()
            await self._settled.wait()

    def _confirmed(self, keys: list[Hashable]) -> None:
        self._link.recovered()
        self._metrics.published.inc(len(keys), outcome="confirmed")
        rest = [key for key in keys if type(key) is not _Waiter]
        if len(rest) != len(keys):
            for key in keys:
                if isinstance(key, _Waiter):
                    key.settle(Settled(key, Outcome.CONFIRMED))
        if rest:
            self._notify_confirmed(rest)
        self._changed()

    def _outcomes(self, outcomes: list[Settled]) -> None:
        rest = []
        for settled in outcomes:
            self._metrics.published.inc(outcome=settled.outcome.value)
            if isinstance(settled.key, _Waiter):
                settled.key.settle(settled)
            else:
                rest.append(settled)
        if rest:
            self._notify_settled(rest)
        self._changed()

    def _confirm_as_settled(self, keys: list[Hashable]) -> None:
        self._notify_settled([Settled(key, Outcome.CONFIRMED) for key in keys])

    def _changed(self) -> None:
        self._settled.set()
        self._notify_change()


class _Waiter:
    """The key of a message whose sender awaits it."""

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[Settled]) -> None:
        self._future = future

    def settle(self, settled: Settled) -> None:
        if not self._future.done():
            self._future.set_result(settled)
