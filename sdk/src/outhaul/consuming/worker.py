"""The worker: takes batches, has the inbox decide about them, and waits out what is not the messages' fault.

A generator of steps, like the inbox: a thread runs it for sync handlers, a task for async ones.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

import psycopg

from outhaul.alerts import Alerter
from outhaul.backoff import Backoff
from outhaul.consuming.delivery import Delivery, Outcome, Result
from outhaul.consuming.failures import place_of
from outhaul.consuming.mailbox import IS_LATE, Pause, Take
from outhaul.consuming.steps import IS_CONNECTED, Once, Steps
from outhaul.database import partitions
from outhaul.deadletter import Letter
from outhaul.ids import time_of
from outhaul.inbox import Held, Inbox
from outhaul.metrics import Metrics

_log = logging.getLogger(__name__)

MAINTENANCE_SECONDS = 3600.0
IDLE_PROBE_SECONDS = 15.0
# A deadlock or two are the day's work; more in a row, and the messages wait at the broker instead of here.
QUIET_HOLDS = 3
OUTAGE_ALERT = "OuthaulConsumerOutage"


class Port(Protocol):
    """What the worker tells the broker's side. From any thread, never waiting."""

    def settle(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """These are decided, after ``seconds`` of work: ack, or publish the letter and then ack."""

    def pause(self, why: str) -> None:
        """Take no more messages; keep the unacked ones."""

    def resume(self) -> None:
        """Take messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How the worker takes messages: up to ``batch_size`` at once, waiting ``linger_seconds`` for a full batch."""

    batch_size: int = 100
    linger_seconds: float = 0.0


class Worker:
    """One consumer's work. ``run`` ends when its mailbox does."""

    def __init__(self, inbox: Inbox, port: Port, pace: Pace, metrics: Metrics, alerter: Alerter) -> None:
        self._inbox = inbox
        self._port = port
        self._pace = pace
        self._metrics = metrics
        self._alerter = alerter
        self._backoff = Backoff(base_seconds=0.2, cap_seconds=10.0)
        # What met a deadlock goes on soon: its neighbours wait with it.
        self._soon = Backoff(base_seconds=0.02, cap_seconds=0.5)
        self._paused = False
        self._began = 0.0
        self._ended: list[str] = []
        self._lock = threading.Lock()
        self._warned: set[str] = set()
        self.outage = "starting"

    def ended(self, message_ids: Iterable[str]) -> None:
        """These came to their end in the dead-letter queue: forget their failures. From any thread."""
        with self._lock:
            self._ended += message_ids

    def run(self) -> Steps[None]:
        """Until told to end. The link is paused when this starts; it is resumed once the database answers."""
        self._paused = True
        maintain_at = 0.0
        probe_at = time.monotonic() + IDLE_PROBE_SECONDS
        ending = False
        while not ending:
            if time.monotonic() >= maintain_at:
                ending = yield from self._until_it_works(self._maintain())
                maintain_at = time.monotonic() + MAINTENANCE_SECONDS * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load
                continue
            batch = yield Take(self._pace.batch_size, 1.0, self._pace.linger_seconds)
            if batch is None:
                break
            now = time.monotonic()
            if batch:
                probe_at = now + IDLE_PROBE_SECONDS
                ending = yield from self._work(batch)
            elif self._ended or now >= probe_at:
                probe_at = now + IDLE_PROBE_SECONDS
                ending = yield from self._tidy()
        yield from self._finish()

    def _work(self, batch: list[Delivery]) -> Steps[bool]:
        """Until every delivery of the batch is decided; True when told to end before that."""
        left = batch
        while left:
            began = self._began = time.monotonic()
            size = len(left)
            left, held = yield from self._inbox.process(left, self._report)
            self._metrics.consumer_batch_size.observe(size)
            self._metrics.handler_seconds.observe(time.monotonic() - began)
            if held is not None:
                if (yield from self._hold(held)):
                    return True
            else:
                self._works()
                if left and (yield IS_LATE):
                    return True
        return False

    def _report(self, outcomes: Sequence[Outcome]) -> None:
        now = time.monotonic()
        self._port.settle(outcomes, now - self._began)
        self._began = now
        for outcome in outcomes:
            if outcome.letter is not None:
                self._tell(outcome, outcome.letter)
        if self._metrics.registry is not None:
            self._count(outcomes)

    def _tell(self, outcome: Outcome, letter: Letter) -> None:
        """Into the log, without a word of the payload; the whole error is in the message's headers."""
        place = place_of(outcome.error) if outcome.error is not None else ""
        if outcome.result is Result.RETRIED:
            _log.warning(
                "message %s failed for the %d. time, waits in %s: %s",
                outcome.message_id,
                letter.failed,
                outcome.tier,
                place,
            )
        else:
            _log.warning("message %s is given up: %s (%s)", outcome.message_id, letter.reason, place)
        _log.debug("message %s: %s", outcome.message_id, letter.error, exc_info=outcome.error)

    def _count(self, outcomes: Sequence[Outcome]) -> None:
        counts: dict[Result, int] = {}
        at = self._inbox.clock.now()
        for outcome in outcomes:
            counts[outcome.result] = counts.get(outcome.result, 0) + 1
            if outcome.result is Result.DONE and outcome.message_id:
                age = at - time_of(UUID(outcome.message_id))
                self._metrics.commit_to_consumed_seconds.observe(max(0.0, age.total_seconds()))
        for result, count in counts.items():
            self._metrics.consumed.inc(count, result=result.value)

    def _hold(self, held: Held) -> Steps[bool]:
        """Wait; True when told to end meanwhile. No attempt is spent, nothing is published."""
        wait = (self._soon if held.transient else self._backoff).next_seconds()
        if not held.transient or self._soon.failures > QUIET_HOLDS:
            if not self.outage:
                _log.warning("taking no messages: %s", held)
            self.outage = str(held)
            self._metrics.consumer_outage.set(1)
            if not self._paused:
                self._paused = True
                self._port.pause(f"the database is away: {held}")
            self._alerter.fire(
                OUTAGE_ALERT,
                labels={"consumer": self._inbox.rules.consumer},
                summary=f"{self._inbox.rules.consumer} takes no messages: its database is away",
                description=f"{held}. No attempt is spent and nothing is lost; it goes on when the database is back.",
            )
        told_to_end: bool = yield Pause(wait)
        return told_to_end

    def _works(self) -> None:
        self._backoff.reset()
        self._soon.reset()
        if self._paused:
            if self.outage not in {"", "starting"}:
                _log.warning("taking messages again")
            self._paused = False
            self.outage = ""
            self._metrics.consumer_outage.set(0)
            self._alerter.resolve(OUTAGE_ALERT, labels={"consumer": self._inbox.rules.consumer})
            self._port.resume()

    def _until_it_works(self, steps: Steps[None]) -> Steps[bool]:
        """Once; where it is held, probe until the database answers. True when told to end meanwhile."""
        try:
            yield from steps
        except Held as held:
            error: Held | None = held
            while error is not None:
                if (yield from self._hold(error)):
                    return True
                error = yield from self._probe()
        self._works()
        return False

    def _probe(self) -> Steps[Held | None]:
        try:
            yield from self._inbox.read_clock()
        except Held as held:
            return held
        return None

    def _tidy(self) -> Steps[bool]:
        """While idle: forget ended messages' failures, and notice a database that went away."""
        with self._lock:
            ended, self._ended = self._ended, []
        return (yield from self._until_it_works(self._inbox.clear(ended) if ended else self._inbox.probe()))

    def _maintain(self) -> Steps[None]:
        """The clock; then partitions ahead, and old ones dropped, as far as the database lets us."""
        yield from self._inbox.read_clock()
        rules = self._inbox.rules
        days = math.ceil(rules.retention / timedelta(days=1))
        yield from self._softly(Once(partitions.REGISTER_CONSUMER, (rules.consumer, days)))
        yield from self._softly(Once(partitions.MAKE_PARTITIONS, ("inbox", partitions.DAYS_AHEAD)))
        rows = yield from self._softly(Once(partitions.INBOX_KEEP_DAYS))
        if rows and rows[0][0] is not None:
            # A day more than anybody asked for: nobody's horizon can pass a row while its message is being handled.
            yield from self._softly(Once(partitions.DROP_PARTITIONS, ("inbox", rows[0][0] + 1)))
        yield from self._inbox.read_clock()

    def _softly(self, step: Once) -> Steps[list[tuple[Any, ...]] | None]:
        """Upkeep that somebody else may have the rights for; said once."""
        try:
            rows = yield step
        except psycopg.Error as error:
            if not (yield IS_CONNECTED):
                raise Held(error, transient=False) from error
            if step.query not in self._warned:
                self._warned.add(step.query)
                _log.warning("inbox upkeep is left to somebody with the rights for it: %s", str(error).strip())
            return None
        return rows  # type: ignore[no-any-return] # what a Once answers

    def _finish(self) -> Steps[None]:
        """Leave no false traces: held runs did not crash, ended messages have no failures."""
        with self._lock:
            ended, self._ended = self._ended, []
        try:
            yield from self._inbox.clear(ended)
            yield from self._inbox.release()
        except Held as held:
            _log.warning("could not clear the delivery records on the way out: %s", held)
