"""A world in which the sender's own parts meet a broker that does whatever a broker may do, one step at a time.

Real: the SQL and its store on a real PostgreSQL, window, confirm channel, publisher, pump, breakers, feeder, marker and
how the engine joins them. Made up: the broker behind the wire, and the clock, which moves rows and senders at once.
What the broker routed is known here and nowhere else, so it is the truth that every mark is held against.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
from pika import exceptions, frame, spec

from outbox_support import OUTBOX, created
from outhaul.amqp.confirm_channel import ConfirmChannel
from outhaul.amqp.outgoing import Outgoing
from outhaul.amqp.window import Window
from outhaul.database.outbox_store import OutboxRow, OutboxStore
from outhaul.errors import BrokerUnreachable
from outhaul.metrics import Metrics
from outhaul.resend import ResendRequest, _Chosen
from outhaul.sending.engine import Engine
from outhaul.sending.handover import HandOverLease
from outhaul.sending.sender_settings import SenderSettings
from outhaul.settings import BrokerSettings, DatabaseSettings

T = TypeVar("T")
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
ROUTES = ("a", "b")
MOVE = "UPDATE outbox SET available_at = available_at - make_interval(secs => %s)"
STATES = """
SELECT message_id, status FROM outbox UNION ALL SELECT message_id, 'sent' FROM outbox_sent"""


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


class Desk:
    """The connections to one database, and the loop they run on: made once, for one world after the other."""

    def __init__(self, dsn: str) -> None:
        self.database = DatabaseSettings.parse(dsn)
        self.loop = asyncio.new_event_loop()
        self.conn = psycopg.connect(dsn, autocommit=True)
        self.people = OutboxStore(self.database)
        self.senders = WatchedStore(self.database)  # opened by them
        self.wait(self.people.open())

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def close(self) -> None:
        self.wait(self.senders.close())
        self.wait(self.people.close())
        self.conn.close()
        self.loop.close()


class World:
    """Senders, the broker and the database, at its beginning: no rows, nothing broken."""

    def __init__(self, desk: Desk, clock: Clock) -> None:
        self.clock = clock
        self.database = desk.database
        self.conn = desk.conn
        self.people = desk.people
        self.store = desk.senders
        self.wait = desk.wait
        self.held = self.store.watch(clock)
        self.recorded: set[UUID] = set()
        self.discarded: set[UUID] = set()
        self.routed: set[UUID] = set()
        self.routes: dict[str, str] = {}  # routing key -> unbound | full | missing; healthy ones are not in it
        self.refuses_large = True
        self.orphans: list[Wire] = []
        self.conn.execute("WITH sent AS (DELETE FROM outbox_sent), run AS (DELETE FROM runs) DELETE FROM outbox")
        self.senders = [ModelSender(self), ModelSender(self)]
        self.resend: ModelSender | None = None

    @property
    def all_senders(self) -> list[ModelSender]:
        return self.senders if self.resend is None else [*self.senders, self.resend]

    def record(self, routing_keys: Sequence[str], *, large: int = 0) -> None:
        """A row each; the first ``large`` of them too large for a broker that refuses such."""
        kinds = ["large"] * large + ["small"] * (len(routing_keys) - large)
        with self.conn.transaction():
            rows = OUTBOX.add(
                self.conn, *(created(routing_key=k, type=t) for k, t in zip(routing_keys, kinds, strict=True))
            )
        self.recorded |= {row.message_id for row in rows}

    def record_leased(self, routing_key: str, sender: ModelSender | None) -> None:
        """A producer records a row for the sender beside it; None: it dies before it hands the row over."""
        message = created(routing_key=routing_key, type="small")
        expires_at = self.clock.monotonic() + LEASE_SECONDS
        lease = HandOverLease(uuid4(), LEASE_SECONDS, expires_at)
        with self.conn.transaction():
            [row] = OUTBOX.add(self.conn, message, lease=lease)
        self.recorded.add(row.message_id)
        self.held[row.message_id] = (lease.token, expires_at)
        if sender is not None:
            sender.engine.pump.hand(
                OutboxRow(
                    row.message_id,
                    row.seq,
                    OUTBOX.exchange,
                    message.routing_key,
                    message.type,
                    OUTBOX.source,
                    message.aggregate_id,
                    message.data,
                    message.content_type,
                    message.headers,
                    None,
                    None,
                    row.created_at,
                    0,
                    lease.token,
                ),
                expires_at,
            )
            sender.engine.pump.run()

    def advance(self, seconds: float) -> None:
        """Time passes, for senders and for rows."""
        self.clock.now += seconds
        self.conn.execute(MOVE, (seconds,))

    def arrive(self, sender: ModelSender, count: int) -> None:
        """The broker reads the next messages off a sender's wire and decides about each."""
        wire = sender.wire
        for _ in range(min(count, sender.on_the_wire)):
            channel = sender.channel
            if channel is None:
                return
            tag, outgoing = wire.sent.popleft()
            state = self.routes.get(outgoing.routing_key, "")
            if state == "missing" or (outgoing.type == "large" and self.refuses_large):
                # The channel goes, and with it the answers to everything before and whatever comes behind.
                wire.sent.clear()
                code = 404 if state == "missing" else 406
                channel.end(exceptions.ChannelClosedByBroker(code, "not like this"))
                return
            if state == "unbound":
                method = SimpleNamespace(exchange="e", routing_key="k", reply_code=312, reply_text="NO_ROUTE")
                channel._returned(None, method, SimpleNamespace(message_id=outgoing.message_id), b"")
            elif state != "full":
                self.routed.add(UUID(outgoing.message_id))
            wire.decided[tag] = state != "full"

    def arrive_late(self) -> None:
        """Messages of a connection that is no more were read by the broker all the same."""
        for wire in self.orphans:
            for _, outgoing in wire.sent:
                if outgoing.routing_key not in self.routes and not (outgoing.type == "large" and self.refuses_large):
                    self.routed.add(UUID(outgoing.message_id))
        self.orphans.clear()

    def answer(self, sender: ModelSender, which: int, *, multiple: bool) -> None:
        """One frame for one decided message, in any order; for several where the broker may say so of all of them."""
        wire, channel = sender.wire, sender.channel
        if channel is None or not wire.decided:
            return
        tags = sorted(wire.decided)
        tag = tags[which % len(tags)]
        kind = wire.decided[tag]
        up_to = [each for each in channel.window._pending if each <= tag]
        multiple = multiple and all(wire.decided.get(each) == kind for each in up_to)
        for each in up_to if multiple else [tag]:
            del wire.decided[each]
        method = spec.Basic.Ack(tag, multiple) if kind else spec.Basic.Nack(tag, multiple)
        channel._answer(frame.Method(1, method))

    def crash(self, number: int) -> None:
        """SIGKILL: everything in memory is gone, what is on the wire may arrive; another is started."""
        self.orphans.append(self.senders[number].wire)
        self.senders[number] = ModelSender(self)

    def work(self, sender: ModelSender) -> None:
        """A sender's quiet day: everything it takes is read, answered and marked."""
        sender.turn()
        while sender.on_the_wire or sender.undelivered:
            self.arrive(sender, 100)
            while sender.undelivered:
                self.answer(sender, 0, multiple=False)
        self.mark(sender)

    def start_resend(self, request: ResendRequest) -> None:
        """`outhaul resend`; one that runs is killed."""
        if self.resend is not None:
            self.orphans.append(self.resend.wire)
        self.resend = ModelSender(self, request=request)

    def unpark(self) -> None:
        self.wait(self.people.unpark(list(self.recorded)))

    def discard(self, ids: Sequence[UUID]) -> None:
        gone = self.wait(self.people.discard(ids, reason="worthless", actor="somebody", run_id=str(uuid4())))
        self.discarded |= {row.message_id for row in gone}
        if taken := [row.message_id for row in gone if self.lease_left(row.message_id) > PATIENCE_SECONDS]:
            raise Violation(f"discarded while a sender holds it: {taken}")

    def lease_left(self, message_id: UUID) -> float:
        """Seconds of its lease, by the model; 0 when nobody has one."""
        _, until = self.held.get(message_id, (None, 0.0))
        return until - self.clock.monotonic()

    def states(self) -> dict[UUID, str]:
        """Where each row is, by the database."""
        rows: list[tuple[UUID, str]] = self.conn.execute(STATES.encode()).fetchall()
        found = dict(rows)
        if len(found) != len(rows):
            raise Violation("a row is in the outbox and in its history")
        return found

    def check(self) -> None:
        """What must hold at any time."""
        states = self.states()
        sent = {each for each, state in states.items() if state == "sent"}
        if sent - self.routed:
            raise Violation(f"marked sent and never routed: {sent - self.routed}")
        for sender in self.all_senders:
            if sender.unmarked - self.routed:
                raise Violation(f"taken for sent and never routed: {sender.unmarked - self.routed}")
        if set(states) != self.recorded - self.discarded:
            raise Violation(f"vanished or come from nowhere: {set(states) ^ (self.recorded - self.discarded)}")

    def mark(self, sender: ModelSender) -> None:
        ids = sender.mark()
        states = self.states()
        left = {each for each in ids - self.discarded if states.get(each) != "sent"}
        if left:
            raise Violation(f"confirmed, and still to be sent: {left}")

    def heal(self) -> None:
        """Every fault is over, and people have sent again what was parked: everything must go out by itself."""
        self.routes.clear()
        self.refuses_large = False
        for _ in range(60):
            self.unpark()
            for sender in self.all_senders:
                sender.block(blocked=False)
                self.work(sender)
            self.check()
            if "pending" not in self.states().values() and "parked" not in self.states().values():
                return
            self.advance(LEASE_SECONDS + 1)
        raise Violation(f"never sent, though nothing is broken: {[k for k, v in self.states().items() if v != 'sent']}")
