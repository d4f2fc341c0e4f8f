"""From a delivery to what can be run, or to a dead letter that says why not. No I/O; decided by values alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from outhaul import events
from outhaul.consuming.delivery import Delivery, Outcome, Result
from outhaul.consuming.handlers import Handler, Registry, decode_data
from outhaul.deadletter import FORCE, Letter, Reason, failed_of, origin_of, read, tidy
from outhaul.errors import InvalidMessage
from outhaul.ids import first_at, time_of
from outhaul.retry import Retry

# The consumer's database makes partitions a week ahead; an id from further on would lie in the way of a later one.
FUTURE = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What an inbox goes by. ``cut_seconds``: how long a transaction calls handlers before it is committed in part.

    ``idle_seconds``: after so long without a word in the middle of a transaction, the server ends the session; 0 leaves
    that to the server's own setting.
    """

    consumer: str
    queue: str
    retry: Retry
    retention: timedelta = timedelta(days=30)
    max_crashes: int = 5
    max_message_bytes: int = 4 * 1024 * 1024
    transient_limit: int = 10
    cut_seconds: float = 5.0
    idle_seconds: float = 0.0


@dataclass(slots=True)
class Prepared:
    """A delivery that can be run: decoded once."""

    delivery: Delivery
    key: str
    event: events.Event
    handler: Handler
    hash: bytes
    recorded: bool


class Clock:
    """The database's clock, carried on by this machine's monotonic one: the app's own may be hours off."""

    def __init__(self) -> None:
        self._at: datetime | None = None
        self._monotonic = 0.0
        self._forgotten_before: datetime | None = None

    @property
    def is_stale(self) -> bool:
        """Whether it was never read, or an hour ago."""
        return self._at is None or time.monotonic() - self._monotonic > 3600

    def read(self, now: datetime, forgotten_before: datetime | None) -> None:
        """What the database said just now."""
        self._at, self._forgotten_before, self._monotonic = now, forgotten_before, time.monotonic()

    def now(self) -> datetime:
        """The database's time."""
        if self._at is None:
            return datetime.now(UTC)
        return self._at + timedelta(seconds=time.monotonic() - self._monotonic)

    def horizon(self, retention: timedelta) -> datetime:
        """The instant before which an id may have been forgotten."""
        oldest = self.now() - retention
        return max(oldest, self._forgotten_before) if self._forgotten_before else oldest


class Preparation:
    """What a consumer's rules, handlers and clock make of deliveries."""

    def __init__(self, rules: Rules, registry: Registry) -> None:
        self.rules = rules
        self.clock = Clock()
        self._registry = registry

    def prepare(self, batch: Sequence[Delivery]) -> tuple[list[Prepared], list[Outcome]]:
        """Those that can be run, sorted by id, and the others, each with its letter."""
        ready, refused = [], []
        clock = self.clock
        bounds = first_at(clock.horizon(self.rules.retention)).int, first_at(clock.now() + FUTURE).int
        for delivery in batch:
            event = None
            try:
                event = self._decode(delivery)
                ready.append(self._prepare_one(delivery, event, bounds))
            except InvalidMessage as error:
                refused.append(self.refuse(delivery, error, str(event.id) if event else None))
        ready.sort(key=_key)
        return ready, refused

    def _decode(self, delivery: Delivery) -> events.Event:
        if len(delivery.body) > self.rules.max_message_bytes:
            raise InvalidMessage(
                Reason.OVERSIZE, f"{len(delivery.body)} bytes; this consumer takes up to {self.rules.max_message_bytes}"
            )
        return events.decode(delivery.body, delivery.headers)

    def _prepare_one(self, delivery: Delivery, event: events.Event, bounds: tuple[int, int]) -> Prepared:
        """``bounds``: what its id, as a number, may lie between."""
        headers = delivery.headers
        oldest, newest = bounds
        number = event.id.int
        if number < oldest and not headers.get(FORCE):
            raise InvalidMessage(
                Reason.TOO_OLD,
                f"its id is from {time_of(event.id):%Y-%m-%d %H:%M} UTC, before what the inbox remembers; it could not "
                "tell a duplicate",
            )
        if number > newest:
            raise InvalidMessage(
                Reason.INVALID_ID, f"its id is from {time_of(event.id):%Y-%m-%d %H:%M} UTC, which is yet to come"
            )
        handler = self._registry.find(event.type)
        if handler.decode is not None:
            event = _with_data(event, decode_data(handler, event.data))
        recorded = bool(headers) and failed_of(headers) > 0
        return Prepared(delivery, str(event.id), event, handler, events.payload_hash(delivery.body), recorded)

    def anew(self, prepared: Prepared) -> Prepared:
        """Decoded again: the handler of the batch that failed may have changed the data in its hands."""
        event = events.decode(prepared.delivery.body, prepared.delivery.headers)
        return replace(prepared, event=_with_data(event, decode_data(prepared.handler, event.data)))

    def compare(self, prepared: Prepared, known_hash: bytes) -> Outcome:
        """Its effect is committed already, or that of another message with the same id."""
        if known_hash == prepared.hash:
            return fact_of(prepared, Result.DUPLICATE)
        return self.collision(prepared)

    def collision(self, prepared: Prepared) -> Outcome:
        """The same id with another payload is no duplicate."""
        error = InvalidMessage(Reason.COLLISION, "another message with this id was handled, and its payload differs")
        return self.refuse(prepared.delivery, error, prepared.key)

    def refuse(self, delivery: Delivery, error: InvalidMessage, key: str | None) -> Outcome:
        """To the dead letters at once."""
        now = self.clock.now()
        letter = self.letter(
            delivery,
            reason=error.reason,
            error=tidy(error.detail),
            failed=failed_of(delivery.headers),
            first_failed_at=now,
            last_failed_at=now,
        )
        return Outcome(delivery, Result.DEAD_LETTERED, key, letter, error=error)

    def letter(
        self,
        delivery: Delivery,
        *,
        reason: str,
        error: str,
        failed: int,
        first_failed_at: datetime,
        last_failed_at: datetime,
    ) -> Letter:
        """What is known of its failure; the first one's time and the first route are kept from earlier letters."""
        exchange, routing_key = origin_of(delivery.headers, delivery.exchange, delivery.routing_key)
        return Letter(
            reason=reason,
            error=error,
            failed=failed,
            first_failed_at=read(delivery.headers).first_failed_at or first_failed_at,
            last_failed_at=last_failed_at,
            exchange=exchange,
            routing_key=routing_key,
            consumer=self.rules.consumer,
        )


def fact_of(prepared: Prepared, result: Result) -> Outcome:
    """DONE or DUPLICATE: nothing to publish."""
    return Outcome(prepared.delivery, result, prepared.key)


def _with_data(event: events.Event, data: Any) -> events.Event:
    """`dataclasses.replace` by hand, at a third of its cost; this runs for every message."""
    return events.Event(
        event.id,
        event.type,
        event.source,
        event.time,
        event.subject,
        event.sequence,
        event.causation_id,
        event.traceparent,
        data,
        event.headers,
    )


def _key(prepared: Prepared) -> str:
    return prepared.key
