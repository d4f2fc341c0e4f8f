"""The sender of the protocol's model: the product's engine, turned step by step over a wire that the model holds.

Real: window, confirm channel, publisher, pump, breakers, feeder, marker, store, and how the engine joins them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING
from uuid import UUID

from outhaul.amqp.confirm_channel import ConfirmChannel
from outhaul.amqp.outgoing import Outgoing
from outhaul.amqp.window import Window
from outhaul.database.outbox_store import OutboxRow, OutboxStore
from outhaul.errors import BrokerUnreachable
from outhaul.metrics import Metrics
from outhaul.resend import ResendRequest, _Chosen
from outhaul.sending.engine import Engine
from outhaul.sending.sender_settings import SenderSettings
from outhaul.settings import BrokerSettings

if TYPE_CHECKING:
    from protocol_model import World  # it makes senders, and they are a part of it

LEASE_SECONDS = 60.0
SETTINGS = SenderSettings(
    lease_seconds=LEASE_SECONDS,
    confirm_timeout_seconds=30.0,
    window_messages=8,
    claim_rows=6,
    max_attempts=2,
    refused_base_seconds=5.0,
)
BROKER = BrokerSettings.parse("amqp://model.invalid/%2F")
PATIENCE_SECONDS = 3.0  # the database's clock goes on by itself while statements run


class Violation(AssertionError):
    """The world and the product's records of it contradict each other."""


@dataclass
class Clock:
    """In place of the module ``time`` where senders look at it; it stands still but for the model's steps."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now


class WatchedWindow(Window[Outgoing]):
    """The window, with an eye on what is handed to the wire."""

    __slots__ = ("on_add",)
    on_add: Callable[[int, Outgoing], None]

    def add(self, item: Outgoing, message_id: str, size_bytes: int, now: float) -> int:
        tag = super().add(item, message_id, size_bytes, now)
        self.on_add(tag, item)
        return tag


class WatchedStore(OutboxStore):
    """The store, with an eye on who is given which row."""

    def watch(self, clock: Clock) -> dict[UUID, tuple[UUID, float]]:
        """From now on: who holds which row (by the lease's token), until when."""
        self._clock = clock
        self._held: dict[UUID, tuple[UUID, float]] = {}
        return self._held

    async def claim(self, limit: int, lease_seconds: float) -> list[OutboxRow]:
        return self._taken(await super().claim(limit, lease_seconds))

    async def claim_route(self, exchange: str, routing_key: str, limit: int, lease_seconds: float) -> list[OutboxRow]:
        return self._taken(await super().claim_route(exchange, routing_key, limit, lease_seconds))

    async def claim_ids(self, ids: Iterable[UUID], lease_seconds: float) -> list[OutboxRow]:
        return self._taken(await super().claim_ids(ids, lease_seconds))

    async def release(self, rows: Sequence[OutboxRow], *, delay_seconds: float, last_error: str | None) -> int:
        released = await super().release(rows, delay_seconds=delay_seconds, last_error=last_error)
        self.given_up(rows)
        return released

    async def fail(
        self, row: OutboxRow, *, last_error: str, delay_seconds: float, max_attempts: int, reason: str
    ) -> str | None:
        state = await super().fail(
            row, last_error=last_error, delay_seconds=delay_seconds, max_attempts=max_attempts, reason=reason
        )
        self.given_up([row])
        return state

    def given_up(self, rows: Iterable[OutboxRow]) -> None:
        for row in rows:
            if self._held.get(row.message_id, (None, 0.0))[0] == row.lease_token:
                del self._held[row.message_id]

    def _taken(self, rows: list[OutboxRow]) -> list[OutboxRow]:
        now = self._clock.monotonic()
        for row in rows:
            _, until = self._held.get(row.message_id, (None, 0.0))
            if until - now > PATIENCE_SECONDS:
                raise Violation(f"{row.message_id} was given away {until - now:.0f} s before its lease's end")
            self._held[row.message_id] = (row.lease_token, now + LEASE_SECONDS)
        return rows


@dataclass
class Wire:
    """One channel between a sender and the broker: what is on its way, and what is decided and not answered."""

    sent: deque[tuple[int, Outgoing]] = field(default_factory=deque)
    decided: dict[int, bool] = field(default_factory=dict)  # by tag: True for an ack to come, False for a nack


class ModelSender:
    """The product's engine, not running by itself: each of its turns is a step of the model."""

    def __init__(self, world: World, *, request: ResendRequest | None = None) -> None:
        self.world = world
        self.wire = Wire()
        chosen = None if request is None else _Chosen(request)
        self.engine = Engine(
            world.database,
            BROKER,
            SETTINGS,
            name="model",
            metrics=Metrics.off(),
            source=None if chosen is None else chosen.source(LEASE_SECONDS),
            probing=chosen is None,
            on_released=chosen.again if chosen is not None else lambda _: None,
        )
        self.engine.work_link._store = self.engine.mark_link._store = world.store
        self._link = self.engine.publisher._link
        self._link.connection = SimpleNamespace(is_open=True)
        self._link.close = self._close  # type: ignore[method-assign] # there is no connection to close
        self.reopen()

    @property
    def channel(self) -> ConfirmChannel | None:
        return self._link.channel

    @property
    def on_the_wire(self) -> int:
        """Messages the broker may read."""
        return 0 if self.is_blocked or self.channel is None else len(self.wire.sent)

    @property
    def undelivered(self) -> int:
        """Answers the broker may give."""
        return 0 if self.channel is None else len(self.wire.decided)

    @property
    def unmarked(self) -> set[UUID]:
        """What it holds for confirmed."""
        return set(self.engine.marker._ids)

    def reopen(self) -> None:
        """A new channel, where the last one ended."""
        if self._link.channel is not None or self._link.is_closing:
            return
        self.wire = wire = Wire()
        window = WatchedWindow(max_messages=SETTINGS.window_messages, max_bytes=SETTINGS.window_bytes)
        window.on_add = lambda tag, outgoing: wire.sent.append((tag, outgoing))
        connection = SimpleNamespace(params=SimpleNamespace(frame_max=131_072), emit=lambda _: None)
        self._link.channel = ConfirmChannel(
            SimpleNamespace(channel_number=1, is_open=True, connection=connection, close=lambda: None),
            window,
            on_confirmed=self._link._on_confirmed,
            on_settled=self._link._on_settled,
            on_ended=self._link._channel_ended,
            on_latency=lambda _: None,
        )
        self._link._on_change()

    def turn(self) -> None:
        """One round of the feeder: write back, claim, publish."""
        self.reopen()
        feeder = self.engine.feeder

        async def once() -> None:
            await feeder.write_setbacks()
            await feeder._take()

        self.world.wait(once())
        self.engine.pump.expire(self.world.clock.monotonic())

    def mark(self) -> set[UUID]:
        """Write what is confirmed; returns what was to be written."""
        ids = self.unmarked
        while self.unmarked:
            self.world.wait(self.engine.marker._write())
        return ids

    def block(self, *, blocked: bool) -> None:
        self._link._block(blocked, "low on memory")

    @property
    def is_blocked(self) -> bool:
        return bool(self._link.blocked)

    def lose(self, error: Exception) -> None:
        """The channel or its connection ends; what is on the wire may arrive all the same."""
        self.world.orphans.append(self.wire)
        if self._link.channel is not None:
            self._link.blocked = ""
            self._link.channel.end(error)

    def time_out(self) -> None:
        """What the link's watchdog does about an overdue confirm."""
        channel = self._link.channel
        timeout = SETTINGS.confirm_timeout_seconds
        if (
            channel is not None
            and not self.is_blocked
            and channel.window.overdue(self.world.clock.monotonic(), timeout)
        ):
            self.world.orphans.append(self.wire)
            channel.give_up(BrokerUnreachable(BROKER.address, "no confirm in time"), timeout)

    def drain(self) -> None:
        """SIGTERM."""
        self.world.wait(self.engine.drain(0.0))

    async def _close(self) -> None:
        self._link._closing.set()
        self._link._on_change()
        self.lose(BrokerUnreachable(BROKER.address, "closing"))
