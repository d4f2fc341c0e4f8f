"""Breakers: an outage of a route pauses that route, probes it with single messages, and spends no attempts.

A route is an exchange with a routing key. It is broken while the broker says of its messages that nothing is bound,
that the exchange is missing, or that a queue takes no more. A missing exchange breaks all its routes by one probe: each
try there costs a channel. Pure: time is monotonic seconds, given by the caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from outhaul.backoff import Backoff

Route = tuple[str, str]
"""(exchange, routing key)"""

PROBE_BASE_SECONDS = 0.2
PROBE_CAP_SECONDS = 5.0
HOLD_LEAST_SECONDS = 5.0
HOLD_MOST_SECONDS = 60.0
RECOVERY_ROWS = 10
RECOVERY_FACTOR = 10
RECOVERY_MOST_ROWS = 1000
# Routing keys may be without end (an id in them). Beyond this, the oldest breakers are forgotten: their rows are tried
# again when they are due.
MOST_ROUTES = 1000


class Phase(Enum):
    """Where a broken route stands; a healthy one has no breaker at all."""

    OPEN = "open"
    """Nothing is sent until the next probe is due."""
    PROBING = "probing"
    """One message is on its way."""
    RECOVERING = "recovering"
    """The probe arrived; what was put off is taken up in growing numbers, lest a full queue is overrun again."""


def _probe_backoff() -> Backoff:
    return Backoff(base_seconds=PROBE_BASE_SECONDS, cap_seconds=PROBE_CAP_SECONDS)


@dataclass(slots=True)
class Breaker:
    """One broken route. ``next_probe_at`` and ``opened_at`` are monotonic seconds.

    ``whole_exchange``: it stands for every route of its exchange; ``other_keys`` are those it has held back.
    """

    route: Route
    kind: str
    reason: str
    opened_at: float
    next_probe_at: float = 0.0
    phase: Phase = Phase.OPEN
    recovery_rows: int = RECOVERY_ROWS
    trips: int = 0
    whole_exchange: bool = False
    other_keys: set[str] = field(default_factory=set)
    backoff: Backoff = field(default_factory=_probe_backoff)

    @property
    def is_open(self) -> bool:
        """Whether messages of the route are held back; a recovering route lets them pass."""
        return self.phase is not Phase.RECOVERING

    def hold_seconds(self, now: float) -> float:
        """For how long a row of the route is put off: longer the longer the outage, so that it is not churned.

        A probe takes up rows put off, so this is not how soon they go out; it matters when this sender dies.
        """
        return min(HOLD_MOST_SECONDS, max(HOLD_LEAST_SECONDS, 4 * (now - self.opened_at)))


class Breakers:
    """The broken routes of one sender."""

    __slots__ = ("_broken", "_exchanges")

    def __init__(self) -> None:
        self._broken: dict[Route, Breaker] = {}
        self._exchanges: dict[str, Breaker] = {}

    def __bool__(self) -> bool:
        """Whether any route is broken: the only thing the fast path asks."""
        return bool(self._broken)

    def __iter__(self) -> Iterator[Breaker]:
        """The broken routes."""
        return iter(list(self._broken.values()))

    def get(self, route: Route) -> Breaker | None:
        """The breaker of a broken route."""
        return self._broken.get(route)

    def holds(self, route: Route) -> Breaker | None:
        """The breaker when it holds messages of this route back."""
        breaker = self._broken.get(route)
        if breaker is not None and breaker.is_open:
            return breaker
        breaker = self._exchanges.get(route[0])
        if breaker is None or not breaker.is_open:
            return None
        if len(breaker.other_keys) < MOST_ROUTES:
            breaker.other_keys.add(route[1])
        return breaker

    def trip(self, route: Route, kind: str, reason: str, now: float, *, whole_exchange: bool = False) -> Breaker:
        """A message of the route came back. Only the first failure and a failed probe start a pause anew."""
        breaker = self._broken.get(route)
        if breaker is None:
            self._make_room()
            breaker = self._broken[route] = Breaker(route, kind, reason, opened_at=now)
        elif breaker.phase is Phase.OPEN:
            breaker.kind, breaker.reason = kind, reason
            return breaker
        breaker.kind, breaker.reason = kind, reason
        if whole_exchange and not breaker.whole_exchange and route[0] not in self._exchanges:
            breaker.whole_exchange = True
            self._exchanges[route[0]] = breaker
        if breaker.phase is Phase.RECOVERING:
            # It took some: a full queue that is being drained is asked again soon, not after the longest pause.
            breaker.backoff.reset()
        breaker.phase = Phase.OPEN
        breaker.trips += 1
        breaker.recovery_rows = RECOVERY_ROWS
        breaker.next_probe_at = now + breaker.backoff.next_seconds()
        return breaker

    def due(self, now: float) -> list[Breaker]:
        """Routes whose probe is due."""
        return [b for b in self._broken.values() if b.phase is Phase.OPEN and b.next_probe_at <= now]

    def recovering(self) -> list[Breaker]:
        """Routes that work again and have rows put off."""
        return [b for b in self._broken.values() if b.phase is Phase.RECOVERING]

    def next_due_at(self) -> float | None:
        """When the next probe is due."""
        return min((b.next_probe_at for b in self._broken.values() if b.phase is Phase.OPEN), default=None)

    def probe(self, route: Route) -> None:
        """A probe of that route is being sent."""
        breaker = self._broken.get(route)
        if breaker is not None and breaker.phase is Phase.OPEN:
            breaker.phase = Phase.PROBING

    def unanswered(self, route: Route, now: float) -> None:
        """The probe got lost, or failed for a reason of its own: it says nothing; try again before long."""
        breaker = self._broken.get(route)
        if breaker is not None and breaker.phase is Phase.PROBING:
            breaker.phase = Phase.OPEN
            breaker.next_probe_at = now + PROBE_BASE_SECONDS

    def prove(self, route: Route) -> bool:
        """A message of the route was confirmed. True when that is news: what was put off may be taken up."""
        breaker = self._broken.get(route)
        if breaker is None or breaker.phase is not Phase.PROBING:
            return False
        breaker.phase = Phase.RECOVERING
        if breaker.whole_exchange:
            self._release_exchange(breaker)
        return True

    def recovered_some(self, route: Route, taken: int) -> bool:
        """Of ``recovery_rows`` asked for, so many were there. True when none is left: the route is whole again."""
        breaker = self._broken.get(route)
        if breaker is None or breaker.phase is not Phase.RECOVERING:
            return False
        if taken < breaker.recovery_rows:
            self.forget(route)
            return True
        breaker.recovery_rows = min(RECOVERY_MOST_ROWS, breaker.recovery_rows * RECOVERY_FACTOR)
        return False

    def forget(self, route: Route) -> None:
        """No row of the route is left to probe with."""
        breaker = self._broken.pop(route, None)
        if breaker is not None and breaker.whole_exchange:
            self._release_exchange(breaker)

    def _release_exchange(self, breaker: Breaker) -> None:
        """The exchange is there again, or cannot be tried: its other routes have rows put off, and take them up."""
        del self._exchanges[breaker.route[0]]
        breaker.whole_exchange = False
        for routing_key in breaker.other_keys:
            route = (breaker.route[0], routing_key)
            if route not in self._broken and len(self._broken) < MOST_ROUTES:
                self._broken[route] = Breaker(
                    route, breaker.kind, breaker.reason, breaker.opened_at, phase=Phase.RECOVERING, trips=1
                )
        breaker.other_keys.clear()

    def _make_room(self) -> None:
        if len(self._broken) >= MOST_ROUTES:
            self.forget(next(iter(self._broken)))
