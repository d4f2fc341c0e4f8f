"""A world in which the sender's own parts meet a broker that does whatever a broker may do, one step at a time.

Real: the SQL and its store on a real PostgreSQL, window, confirm channel, publisher, pump, breakers, feeder, marker and
how the engine joins them. Made up: the broker behind the wire, and the clock, which moves rows and senders at once.
What the broker routed is known here and nowhere else, so it is the truth that every mark is held against.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
from pika import exceptions, frame, spec

from outbox_support import OUTBOX, created
from outhaul.database.outbox_store import OutboxRow, OutboxStore
from outhaul.resend import ResendRequest
from outhaul.sending.handover import HandOverLease
from outhaul.settings import DatabaseSettings
from protocol_sender import LEASE_SECONDS, PATIENCE_SECONDS, Clock, ModelSender, Violation, WatchedStore, Wire

T = TypeVar("T")
ROUTES = ("a", "b")
MOVE = "UPDATE outbox SET available_at = available_at - make_interval(secs => %s)"
STATES = """
SELECT message_id, status FROM outbox UNION ALL SELECT message_id, 'sent' FROM outbox_sent"""


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
