"""Move dead letters: back to their queue, or away for good. On record in `runs` of the consumer's database.

A redriven message keeps its id and starts anew: its failure headers, its `x-death` and its row in `deliveries` are
gone. Each message is moved once a run, so that letters which fail at once again cannot keep a run going for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, LiteralString
from uuid import uuid4

import psycopg
from psycopg.types.json import Jsonb

from outhaul.database import runs
from outhaul.deadletter import tidy
from outhaul.errors import ConfigurationError
from outhaul.tools.dlq import DeadLetterQueue, NotTaken
from outhaul.tools.letters import DeadLetter, Filter, destination, is_too_old, redriven_headers
from outhaul.topology import RETRY_EXCHANGE

Connection = psycopg.Connection[Any]
Progress = Callable[[Mapping[str, int]], None]

RECORD_SECONDS: Final = 1.0
LETTERS_A_RECORD: Final = 200
REDRIVE, DISCARD = "dlq-redrive", "dlq-discard"

_REMEMBERED_SINCE: Final[LiteralString] = """
SELECT clock_timestamp(), greatest(
    (SELECT forgotten_before FROM retention WHERE table_name = 'inbox' AND isfinite(forgotten_before)),
    (SELECT clock_timestamp() - make_interval(days => min(retention_days)) FROM inbox_consumers
     WHERE consumer = %(consumer)s OR %(consumer)s = ''))"""
# A letter of the broker's own making does not say whose it was: then nobody's crashes count against it any more.
_CLEAR_CRASHES: Final[LiteralString] = """
DELETE FROM deliveries WHERE message_id = %(message_id)s AND (consumer = %(consumer)s OR %(consumer)s = '')"""
_RECORD_LETTERS: Final[LiteralString] = """
INSERT INTO runs (run_id, kind, actor, request, state, counts, detail, finished_at)
VALUES (%s, %s, %s, %s, 'done', %s, %s, clock_timestamp())"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to do with which letters. ``rate_per_second`` bounds a redrive; ``limit`` is the most letters moved."""

    queue: str
    filter: Filter = field(default_factory=Filter)
    limit: int = 1000
    scan: int = 100_000
    consumer: str = ""
    rate_per_second: float = 100.0
    to_origin: bool = False
    force: bool = False
    reason: str = ""
    dry_run: bool = False

    def request(self, kind: str) -> dict[str, Any]:
        """What goes on record, and what the same run id must ask for again."""
        common = {"queue": self.queue, "filter": self.filter.request(), "limit": self.limit}
        if kind == DISCARD:
            return {**common, "reason": self.reason}
        return {**common, "to": "origin" if self.to_origin else "queue", "force": self.force}


@dataclass(slots=True, kw_only=True)
class Moved:
    """How far a run came. ``problem`` says why it ended early; ``examples`` are the first letters meant."""

    run_id: str
    dry_run: bool
    counts: dict[str, int]
    examples: list[DeadLetter] = field(default_factory=list)
    problem: str = ""
    done_before: bool = False


class _Record:
    """The run's row in `runs`, written at most once a second; a dry run writes none."""

    def __init__(self, inbox: Connection, order: Order, kind: str, run_id: str, actor: str, progress: Progress) -> None:
        self.inbox, self.order, self.kind, self.run_id, self.actor = inbox, order, kind, run_id, actor
        self.counts: dict[str, int] = {
            "seen": 0,
            "matched": 0,
            "moved": 0,
            "too_old": 0,
            "not_taken": 0,
            "came_back": 0,
        }
        self._progress = progress
        self._written = time.monotonic()

    def begin(self) -> bool:
        """Whether there is anything left to do under this id."""
        if self.order.dry_run:
            return True
        run = runs.start(
            self.inbox, run_id=self.run_id, kind=self.kind, actor=self.actor, request=self.order.request(self.kind)
        )
        self.counts["moved"] = int(run.counts.get("moved", 0))
        if run.is_over:
            self.counts.update({name: int(run.counts.get(name, 0)) for name in self.counts})
        return not run.is_over

    def note(self) -> None:
        """Write how far the run has come, if it is time."""
        self._progress(self.counts)
        if not self.order.dry_run and time.monotonic() - self._written >= RECORD_SECONDS:
            runs.progress(self.inbox, self.run_id, self.counts)
            self._written = time.monotonic()

    @contextmanager
    def closing(self, moved: Moved) -> Iterator[None]:
        """Close the record, as failed where the work broke off; then the same id may be run again."""
        try:
            yield
        except BaseException as error:
            if not self.order.dry_run and not self.inbox.closed:
                why = tidy(str(error)) or type(error).__name__
                with suppress(psycopg.Error):  # what ended the work is what to tell
                    runs.finish(self.inbox, self.run_id, state=runs.FAILED, counts=self.counts, detail=why)
            raise
        if not self.order.dry_run:
            state = runs.FAILED if moved.problem else runs.DONE
            detail = tidy(moved.problem or self.order.reason) or None
            runs.finish(self.inbox, self.run_id, state=state, counts=self.counts, detail=detail)


def redrive(
    letters: DeadLetterQueue,
    inbox: Connection,
    order: Order,
    *,
    run_id: str | None = None,
    actor: str = "",
    progress: Progress = lambda _counts: None,
) -> Moved:
    """Publish the letters meant once more, one after the other, each acknowledged when its message is confirmed.

    A letter older than the inbox remembers is left unless ``force``. A message the broker does not take ends the run;
    its letter stays. Raises BrokerUnreachable, TopologyError, ConfigurationError and psycopg's errors.
    """
    if not order.to_origin:
        letters.require_queue(order.queue)
    record = _Record(inbox, order, REDRIVE, run_id or runs.new_run_id(REDRIVE), actor or runs.actor_name(), progress)
    moved = Moved(run_id=record.run_id, dry_run=order.dry_run, counts=record.counts)
    if not record.begin():
        moved.done_before = True
        return moved
    horizons: dict[str, datetime | None] = {}
    pace = 1 / order.rate_per_second
    with record.closing(moved):
        for letter in _meant(letters, inbox, record):
            consumer = order.consumer or letter.letter.consumer
            if consumer not in horizons:
                horizons[consumer] = _remembered_since(inbox, consumer)
            horizon = horizons[consumer]
            if not order.force and horizon is not None and is_too_old(letter, horizon):
                record.counts["too_old"] += 1
                continue
            _keep_example(moved, letter)
            began = time.monotonic()
            if not order.dry_run and not _send_back(letters, inbox, letter, order, consumer, moved):
                break
            # Counted before the pause: whoever ends this run ends it there, as a rule.
            record.counts["moved"] += 1
            record.note()
            if not order.dry_run:
                letters.wait(pace - (time.monotonic() - began))
        letters.give_back()
    return moved


def discard(
    letters: DeadLetterQueue,
    inbox: Connection,
    order: Order,
    *,
    run_id: str | None = None,
    actor: str = "",
    progress: Progress = lambda _counts: None,
) -> Moved:
    """Take the letters meant out of the queue for good, each on record first: ids, reason and hash of the payload.

    Raises ConfigurationError without a reason; BrokerUnreachable, TopologyError and psycopg's errors.
    """
    if not order.reason.strip():
        raise ConfigurationError("--reason", order.reason, "say why these messages are worthless; it goes on record")
    record = _Record(inbox, order, DISCARD, run_id or runs.new_run_id(DISCARD), actor or runs.actor_name(), progress)
    moved = Moved(run_id=record.run_id, dry_run=order.dry_run, counts=record.counts)
    if not record.begin():
        moved.done_before = True
        return moved
    with record.closing(moved):
        batch: list[DeadLetter] = []
        try:
            for letter in _meant(letters, inbox, record):
                _keep_example(moved, letter)
                record.counts["moved"] += 1
                batch.append(letter)
                if len(batch) >= LETTERS_A_RECORD:
                    _give_up(letters, record, batch)
                    batch = []
            _give_up(letters, record, batch)
        except BaseException:
            # Read, counted toward the limit, and still in the queue.
            record.counts["moved"] -= len(batch)
            raise
        letters.give_back()
    return moved


def _meant(letters: DeadLetterQueue, inbox: Connection, record: _Record) -> Iterator[DeadLetter]:
    """The letters the order means, up to its limit; those a run has moved already are left alone."""
    order, counts = record.order, record.counts
    now = _database_now(inbox)
    moved: set[int] = set()
    if counts["moved"] >= order.limit:  # a run that was cut short just before its end
        return
    for letter in letters.letters():
        counts["seen"] += 1
        if order.filter.matches(letter, now):
            key = hash(letter.body)
            if record.kind == REDRIVE and key in moved:
                counts["came_back"] += 1
            else:
                counts["matched"] += 1
                moved.add(key)
                yield letter
        if counts["moved"] >= order.limit or counts["seen"] >= order.scan:
            return


def _send_back(
    letters: DeadLetterQueue, inbox: Connection, letter: DeadLetter, order: Order, consumer: str, moved: Moved
) -> bool:
    exchange, routing_key = destination(
        letter, queue=order.queue, retry_exchange=RETRY_EXCHANGE, to_origin=order.to_origin
    )
    # Before the message goes out: afterwards the consumer may already be counting anew.
    _clear_crashes(inbox, letter, consumer)
    try:
        letters.publish(
            letter, exchange=exchange, routing_key=routing_key, headers=redriven_headers(letter, force=order.force)
        )
    except NotTaken as error:
        moved.counts["not_taken"] += 1
        moved.problem = str(error)
        return False
    letters.settle(letter)
    return True


def _give_up(letters: DeadLetterQueue, record: _Record, batch: list[DeadLetter]) -> None:
    if not batch:
        return
    if not record.order.dry_run:
        summaries = [_recordable(letter) for letter in batch]
        record.inbox.execute(
            _RECORD_LETTERS,
            (
                f"{record.run_id}/{uuid4()}",
                f"{DISCARD}.letters",
                record.actor,
                Jsonb({"run_id": record.run_id, "queue": record.order.queue, "letters": summaries}),
                Jsonb({"discarded": len(batch)}),
                record.order.reason,
            ),
        )
        for letter in batch:
            _clear_crashes(record.inbox, letter, record.order.consumer or letter.letter.consumer)
            letters.settle(letter)
    record.note()


def _clear_crashes(inbox: Connection, letter: DeadLetter, consumer: str) -> None:
    if letter.id is not None:
        inbox.execute(_CLEAR_CRASHES, {"message_id": letter.id, "consumer": consumer})


def _recordable(letter: DeadLetter) -> dict[str, Any]:
    """A letter's summary as JSON that PostgreSQL takes: anybody may have written NULs or half characters into it."""
    kept = ("message_id", "type", "subject", "reason", "error", "sha256", "bytes")
    summary = letter.summary()
    return {name: _storable(summary[name]) for name in kept}


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
    return value


def _keep_example(moved: Moved, letter: DeadLetter) -> None:
    if len(moved.examples) < 20:
        moved.examples.append(letter)


def _remembered_since(inbox: Connection, consumer: str) -> datetime | None:
    """Since when the inbox is sure to remember what this consumer did; None when it has never forgotten anything."""
    row = inbox.execute(_REMEMBERED_SINCE, {"consumer": consumer}).fetchone()
    found: datetime | None = row[1] if row else None
    return found


def _database_now(inbox: Connection) -> datetime:
    row = inbox.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment
