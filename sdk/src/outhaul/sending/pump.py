"""From claimed rows to outcomes: what a sender decides between the database and the broker, without waiting.

**Only a confirm counts as sent.** Everything here runs in callbacks of the event loop; what must be written to the
database is left in ``confirmed`` and ``setbacks`` for others to write, in batches.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast
from uuid import UUID

from outhaul.amqp.outgoing import Outcome, Outgoing, Settled
from outhaul.database.outbox_store import OutboxRow
from outhaul.events import CLOUDEVENTS_JSON
from outhaul.failpoints import COMMIT_PUBLISH
from outhaul.sending.breaker import Breaker, Breakers

ROUTE_OUTCOMES = frozenset({Outcome.UNROUTABLE, Outcome.NO_EXCHANGE, Outcome.NACKED, Outcome.UNCONFIRMED})


class Output(Protocol):
    """What the pump needs of a publisher."""

    @property
    def unconfirmed(self) -> int:
        """Messages in flight."""

    def has_room(self, size_bytes: int = 0) -> bool:
        """Whether one more may be published now."""

    def publish(self, outgoing: Outgoing) -> Settled | None:
        """Hand one over; an outcome at once when it cannot even be sent."""


class Setback(NamedTuple):
    """A row that was not sent, and what is to be written of it: released for later, or one attempt spent."""

    row: OutboxRow
    delay_seconds: float
    reason: str
    refused: bool


class Waiting(NamedTuple):
    """A row in memory, ours until ``expires_at`` (monotonic seconds)."""

    row: OutboxRow
    expires_at: float


@dataclass(slots=True)
class Tally:
    """What a pump has done since it began."""

    published: int = 0
    confirmed: int = 0
    unroutable: int = 0
    nacked: int = 0
    unknown: int = 0
    refused: int = 0


class Pump:
    """Moves rows from memory into the publisher's window and sorts what comes back.

    ``on_confirmed(ids, last_row)`` is told of every batch of confirmed rows, ``on_setback()`` when ``setbacks`` has
    grown; ``on_trip`` of a route that broke, ``on_recovery`` when its probe arrived, ``on_whole`` when nothing put off
    is left. ``least_lease_seconds`` is what must be left of a lease for its row to be published: the confirm deadline.
    """

    def __init__(
        self,
        output: Output,
        *,
        least_lease_seconds: float,
        on_confirmed: Callable[[list[UUID], OutboxRow], None],
        on_setback: Callable[[], None],
        on_recovery: Callable[[Breaker], None],
        on_whole: Callable[[Breaker], None],
        on_trip: Callable[[Breaker], None],
    ) -> None:
        self.breakers = Breakers()
        self.setbacks: list[Setback] = []
        self.tally = Tally()
        self.paused = False
        self._output = output
        self._least_lease_seconds = least_lease_seconds
        self._on_confirmed = on_confirmed
        self._on_setback = on_setback
        self._on_recovery = on_recovery
        self._on_whole = on_whole
        self._on_trip = on_trip
        self._ready: deque[Waiting] = deque()
        self._handed: deque[Waiting] = deque()
        self._suspects: deque[Waiting] = deque()
        self._probes: deque[Waiting] = deque()
        self._alone = False
        self._pumping = False
        self._late = 0

    @property
    def waiting(self) -> int:
        """Rows in memory that have not been published."""
        return len(self._ready) + len(self._handed) + len(self._suspects) + len(self._probes)

    @property
    def handed(self) -> int:
        """Rows handed over by producers in this process and not yet published."""
        return len(self._handed)

    @property
    def is_idle(self) -> bool:
        """Nothing in memory, nothing in flight, nothing to write back."""
        return not (self.waiting or self.setbacks or self._output.unconfirmed)

    def feed(self, rows: Iterable[OutboxRow], expires_at: float) -> None:
        """Take claimed rows and publish what fits."""
        self._ready.extend([Waiting(row, expires_at) for row in rows])
        self.run()

    def hand(self, row: OutboxRow, expires_at: float) -> None:
        """Take a row a producer has just committed: before the backlog, since somebody waits for its effect."""
        self._handed.append(Waiting(row, expires_at))

    def run(self) -> None:
        """Publish while there are rows and room."""
        if self._pumping or self.paused:
            return
        self._pumping = True
        try:
            if self._alone and self._output.unconfirmed:
                return
            self._alone = False
            if self._probes or self._suspects:
                self._run_alone()
                self._alone = self._alone and self._output.unconfirmed > 0
            if not (self._alone or self._probes or self._suspects):
                self._run_queue(self._handed)
                self._run_queue(self._ready)
        finally:
            self._pumping = False

    def probe(self, row: OutboxRow, expires_at: float) -> None:
        """Publish one message of a broken route, past its breaker."""
        # Alone in flight: where the exchange is missing, the probe costs the channel and all that is on its way there.
        self.breakers.probe((row.exchange, row.routing_key))
        self._probes.append(Waiting(row, expires_at))
        self.run()

    def recovered(self, breaker: Breaker, rows: Sequence[OutboxRow], expires_at: float) -> None:
        """Take rows put off because of a route that works again; when there are no more, the route is whole."""
        if self.breakers.recovered_some(breaker.route, len(rows)):
            self._on_whole(breaker)
        self.feed(rows, expires_at)

    def forget(self, breaker: Breaker) -> None:
        """No row is left to probe that route with."""
        self.breakers.forget(breaker.route)
        self._on_whole(breaker)

    def confirmed(self, keys: Sequence[Hashable]) -> None:
        """The publisher's ``on_confirmed``."""
        waiting = cast("Sequence[Waiting]", keys)  # the keys this pump gave out
        self.tally.confirmed += len(waiting)
        if self.breakers:
            for row, _ in waiting:
                if self.breakers.prove((row.exchange, row.routing_key)):
                    breaker = self.breakers.get((row.exchange, row.routing_key))
                    if breaker is not None:
                        self._on_recovery(breaker)
        self._on_confirmed([row.message_id for row, _ in waiting], waiting[-1].row)

    def settled(self, outcomes: Sequence[Settled]) -> None:
        """The publisher's ``on_settled``: everything that was not confirmed."""
        now = time.monotonic()
        before = len(self.setbacks)
        for settled in outcomes:
            self._set_back(cast("Waiting", settled.key), settled, now)
        if len(self.setbacks) > before:
            self._on_setback()

    def give_back(self, reason: str, *, suspects: bool = False) -> None:
        """Release what waits in memory: the broker is away, and another sender may reach it."""
        queues = [self._ready, self._handed, self._probes]
        if suspects:
            queues.append(self._suspects)
        for waiting in self._probes:
            self.breakers.unanswered((waiting.row.exchange, waiting.row.routing_key), time.monotonic())
        for queue in queues:
            self.setbacks.extend(Setback(waiting.row, 0.0, reason, refused=False) for waiting in queue)
            queue.clear()
        if self.setbacks:
            self._on_setback()

    def expire(self, now: float) -> None:
        """Release rows whose lease will end before a confirm could come."""
        limit = now + self._least_lease_seconds
        before = len(self.setbacks)
        for queue in (self._handed, self._suspects, self._ready):
            # Each queue is in order of its leases' ends but for a claim that overtook: its turn comes with the next.
            while queue and queue[0].expires_at < limit:
                self._too_late(queue.popleft().row)
        if len(self.setbacks) > before:
            self._on_setback()

    def take_late(self) -> int:
        """How many rows came too late since last asked: the claims were too big for the lease."""
        late, self._late = self._late, 0
        return late

    def _run_queue(self, queue: deque[Waiting]) -> None:
        output, breakers = self._output, self.breakers
        broken = bool(breakers)  # outcomes come by callbacks, never while this runs
        limit = time.monotonic() + self._least_lease_seconds
        before = len(self.setbacks)
        while queue and output.has_room():
            waiting = queue.popleft()
            row = waiting.row
            if waiting.expires_at < limit:
                self._too_late(row)
            elif broken and (breaker := breakers.holds((row.exchange, row.routing_key))) is not None:
                self._hold(row, breaker, time.monotonic())
            else:
                self._publish(waiting)
        if len(self.setbacks) > before:
            self._on_setback()

    def _run_alone(self) -> None:
        """One at a time: alone in flight, a message that makes the broker close the channel is found out."""
        limit = time.monotonic() + self._least_lease_seconds
        before = len(self.setbacks)
        output = self._output
        while (self._probes or self._suspects) and not output.unconfirmed and output.has_room():
            probing = bool(self._probes)
            waiting = self._probes.popleft() if probing else self._suspects.popleft()
            row = waiting.row
            breaker = None if probing else self.breakers.holds((row.exchange, row.routing_key))
            if waiting.expires_at < limit:
                self.breakers.unanswered((row.exchange, row.routing_key), time.monotonic())
                self._too_late(row)
            elif breaker is not None:
                self._hold(row, breaker, time.monotonic())
            else:
                self._alone = True
                self._publish(waiting)
        if len(self.setbacks) > before:
            self._on_setback()

    def _publish(self, waiting: Waiting) -> None:
        COMMIT_PUBLISH.hit()
        row = waiting.row
        self.tally.published += 1
        try:
            body = row.body()
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            # Another program's row, say: one that cannot be a message must not hold up its neighbours.
            at_once: Settled | None = Settled(waiting, Outcome.REFUSED, f"cannot be made a message: {error!r}"[:500])
        else:
            at_once = self._output.publish(
                Outgoing(
                    waiting,
                    row.exchange,
                    row.routing_key,
                    body,
                    str(row.message_id),
                    row.type,
                    CLOUDEVENTS_JSON,
                    row.headers,
                )
            )
        if at_once is not None:
            self._set_back(waiting, at_once, time.monotonic())

    def _set_back(self, waiting: Waiting, settled: Settled, now: float) -> None:
        row = waiting.row
        route = (row.exchange, row.routing_key)
        outcome, detail = settled.outcome, settled.detail
        if outcome in ROUTE_OUTCOMES:
            if outcome in {Outcome.UNROUTABLE, Outcome.NO_EXCHANGE}:
                self.tally.unroutable += 1
            else:
                self.tally.nacked += 1
            held_before = self.breakers.holds(route) is not None
            missing = outcome is Outcome.NO_EXCHANGE
            breaker = self.breakers.trip(route, outcome.value, detail, now, whole_exchange=missing)
            self._hold(row, breaker, now)
            if not held_before:
                self._on_trip(breaker)
        elif outcome is Outcome.REFUSED:
            self.tally.refused += 1
            self.breakers.unanswered(route, now)
            self.setbacks.append(Setback(row, 0.0, detail, refused=True))
        else:
            self.tally.unknown += 1
            self.breakers.unanswered(route, now)
            if settled.suspect:
                self._suspects.append(waiting)
            else:
                self.setbacks.append(Setback(row, 0.0, detail, refused=False))

    def _hold(self, row: OutboxRow, breaker: Breaker, now: float) -> None:
        self.setbacks.append(Setback(row, float(round(breaker.hold_seconds(now))), breaker.reason, refused=False))

    def _too_late(self, row: OutboxRow) -> None:
        self._late += 1
        self.setbacks.append(Setback(row, 0.0, "its lease ended before its turn came", refused=False))
