"""The story of a message: recorded, confirmed, delivered, taken effect, or where it stopped and why.

`gather` reads the facts, wherever there is a connection to read them from; `tell` makes the story of them. Facts are
read in the order in which a message travels, so that one which moves meanwhile is seen at least once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, LiteralString, NamedTuple
from uuid import UUID

import psycopg
from psycopg.rows import namedtuple_row

from outhaul.ids import is_uuid7, time_of
from outhaul.tools.audit import consumers
from outhaul.tools.letters import DeadLetter

Connection = psycopg.Connection[Any]

MOST_MESSAGES: Final = 100
# A message confirmed this long ago that is neither in a queue nor anywhere else is called lost.
SETTLED_SECONDS: Final = 60.0

_PENDING: Final[LiteralString] = """
SELECT message_id, exchange, routing_key, type, aggregate_id, created_at, available_at,
       lease_token IS NOT NULL AS leased,
       available_at > clock_timestamp() AS later, attempts, status, park_reason, last_error
FROM outbox """
_SENT: Final[LiteralString] = """
SELECT message_id, exchange, routing_key, type, aggregate_id, created_at, sent_at, attempts FROM outbox_sent """
_BY_ID: Final[LiteralString] = "WHERE message_id = %s LIMIT %s"
_BY_AGGREGATE: Final[LiteralString] = "WHERE aggregate_id = %s ORDER BY message_id DESC LIMIT %s"
_CONSUMED: Final[LiteralString] = """
SELECT consumer, message_id, processed_at FROM inbox WHERE consumer = ANY(%s) AND message_id = ANY(%s)"""
_FAILING: Final[LiteralString] = """
SELECT consumer, message_id, started, failed, first_failed_at, last_failed_at, last_error, updated_at
FROM deliveries WHERE message_id = ANY(%s)"""
_FORGOTTEN: Final[LiteralString] = """
SELECT clock_timestamp(), (SELECT max(forgotten_before) FROM retention WHERE isfinite(forgotten_before))"""


class State(StrEnum):
    """Where a message is. PARKED, DEAD and LOST need somebody; UNKNOWN is found nowhere."""

    WAITING = "waiting"
    SENDING = "sending"
    PARKED = "parked"
    SENT = "sent"
    FAILING = "failing"
    DEAD = "dead"
    LOST = "lost"
    DONE = "done"
    UNKNOWN = "unknown"


NEEDS_SOMEBODY: Final = frozenset({State.PARKED, State.DEAD, State.LOST, State.UNKNOWN})


class Step(NamedTuple):
    """One thing that happened, or that is so now (``at`` is None)."""

    at: datetime | None
    place: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What happened to one message, in order; ``remedy`` says what a person can do where one should."""

    message_id: UUID | None
    type: str
    aggregate_id: str
    state: State
    steps: tuple[Step, ...]
    remedy: str = ""


@dataclass(slots=True, kw_only=True)
class Facts:
    """What is known of one message. Rows are named tuples of their columns.

    ``before_it`` counts the messages before it in the consumer's queue, None when it was not found there.
    """

    message_id: UUID | None
    pending: Any = None
    sent: Any = None
    letters: list[DeadLetter] = field(default_factory=list)
    before_it: int | None = None
    failing: list[Any] = field(default_factory=list)
    consumed: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """Where was looked, so that "not there" is told from "not looked for".

    ``waiting`` counts what is in the consumer's queue and its delay tiers, None when unknown; ``all_letters`` tells
    whether the dead-letter queue was read to its end.
    """

    outbox: bool = False
    inbox: bool = False
    waiting: int | None = None
    all_letters: bool = False
    now: datetime | None = None
    forgotten_before: datetime | None = None


def gather(
    identifier: str,
    *,
    outbox: Connection | None,
    inbox: Connection | None,
    letters: Iterable[DeadLetter] = (),
    queued: Iterable[DeadLetter] = (),
    waiting: int | None = None,
    all_letters: bool = False,
) -> tuple[list[Facts], Looked]:
    """The facts about a message id, or about the latest 100 messages of an aggregate, oldest first.

    ``letters`` are dead letters, ``queued`` the messages of the consumer's queue, as far as they were read. Raises
    psycopg's errors.
    """
    facts: dict[UUID | None, Facts] = {}
    now = forgotten = None
    if outbox is not None:
        now, forgotten = outbox.execute(_FORGOTTEN).fetchone() or (None, None)
        _from_outbox(facts, outbox, identifier)
    given = _uuid(identifier)
    if given is not None and not facts and is_uuid7(given):
        facts[given] = Facts(message_id=given)
    for letter in letters:
        if _is_meant(letter, facts, identifier):
            facts.setdefault(letter.id, Facts(message_id=letter.id)).letters.append(letter)
    for before, message in enumerate(queued):
        if _is_meant(message, facts, identifier):
            facts.setdefault(message.id, Facts(message_id=message.id)).before_it = before
    if inbox is not None:
        _from_inbox(facts, inbox)
    looked = Looked(
        outbox=outbox is not None,
        inbox=inbox is not None,
        waiting=waiting,
        all_letters=all_letters,
        now=now,
        forgotten_before=forgotten,
    )
    ordered = sorted(facts.values(), key=lambda fact: (fact.message_id is None, fact.message_id or UUID(int=0)))
    return ordered[-MOST_MESSAGES:], looked


def _from_outbox(facts: dict[UUID | None, Facts], outbox: Connection, identifier: str) -> None:
    given = _uuid(identifier)
    for row in _either(outbox, _PENDING, identifier, given):
        facts.setdefault(row.message_id, Facts(message_id=row.message_id)).pending = row
    for row in _either(outbox, _SENT, identifier, given):
        facts.setdefault(row.message_id, Facts(message_id=row.message_id)).sent = row


def _from_inbox(facts: dict[UUID | None, Facts], inbox: Connection) -> None:
    ids = [message_id for message_id in facts if message_id is not None]
    if not ids:
        return
    for row in _rows(inbox, _FAILING, (ids,)):
        facts[row.message_id].failing.append(row)
    for row in _rows(inbox, _CONSUMED, (consumers(inbox), ids)):
        facts[row.message_id].consumed.append(row)


def _is_meant(message: DeadLetter, facts: dict[UUID | None, Facts], identifier: str) -> bool:
    """Whether a message seen on the broker is the one asked for, or about the business object asked for."""
    return identifier in {message.subject, message.message_id} or (message.id is not None and message.id in facts)


def tell(facts: Facts, looked: Looked) -> Story:
    """The story of one message. Pure."""
    source = facts.sent or facts.pending
    letter = facts.letters[0] if facts.letters else None
    state, remedy = _state(facts, looked)
    return Story(
        message_id=facts.message_id,
        type=source.type if source else (letter.type if letter else ""),
        aggregate_id=source.aggregate_id if source else (letter.subject if letter else ""),
        state=state,
        steps=tuple(_steps(facts, looked, state)),
        remedy=remedy,
    )


def _state(facts: Facts, looked: Looked) -> tuple[State, str]:
    message_id = facts.message_id
    if facts.letters:
        return State.DEAD, f"mend the cause, then: outhaul dlq redrive --id {message_id} (or discard it with a reason)"
    if facts.consumed:
        return State.DONE, ""
    if facts.failing:
        return State.FAILING, ""
    if facts.sent is not None and facts.before_it is None:
        return _after_the_confirm(facts.sent.sent_at, looked)
    if facts.sent is not None or facts.before_it is not None:
        return State.SENT, ""
    if facts.pending is None:
        return State.UNKNOWN, _why_unknown(message_id, looked)
    if facts.pending.status == "parked":
        return State.PARKED, f"mend the cause, then: outhaul resend --id {message_id} (or discard it with a reason)"
    if facts.pending.leased and facts.pending.later:
        return State.SENDING, ""
    return State.WAITING, "" if facts.pending.later else "if no sender lives (outhaul status), run: outhaul resend"


def _after_the_confirm(sent_at: datetime, looked: Looked) -> tuple[State, str]:
    settled = looked.now is not None and looked.now - sent_at > timedelta(seconds=SETTLED_SECONDS)
    if looked.inbox and looked.all_letters and looked.waiting == 0 and settled:
        return State.LOST, "it is in no queue; compare everything with `outhaul audit` and keep the broker's log"
    return State.SENT, ""


def _why_unknown(message_id: UUID | None, looked: Looked) -> str:
    if not looked.outbox:
        return "only the consumer's side was asked; give --outbox-dsn to look where the message was recorded"
    if message_id is not None and looked.forgotten_before is not None and time_of(message_id) < looked.forgotten_before:
        return f"it is from before {looked.forgotten_before:%Y-%m-%d}, up to when the history was dropped"
    return "its transaction was rolled back, or it belongs to another outbox"


def _steps(facts: Facts, looked: Looked, state: State) -> list[Step]:
    steps: list[Step] = []
    source = facts.sent or facts.pending
    if source is not None:
        route = f"exchange {source.exchange!r}, routing key {source.routing_key!r}"
        steps.append(Step(source.created_at, "outbox", f"recorded for {route}"))
    if facts.sent is not None:
        refused = f" after {facts.sent.attempts} refused attempts" if facts.sent.attempts else ""
        # Rows are marked in batches: a quick consumer is done before.
        steps.append(Step(facts.sent.sent_at, "broker", f"confirmed{refused}, and marked as sent"))
    elif facts.pending is not None:
        steps.append(Step(None, "outbox", _pending_text(facts.pending)))
    for row in facts.failing:
        steps += _failing_steps(row)
    for letter in facts.letters:
        told = letter.letter
        why = f"{told.reason or 'no reason given'}" + (f" ({told.error})" if told.error else "")
        steps.append(Step(told.last_failed_at, "dlq", f"dead letter after {told.failed} failed attempts: {why}"))
    steps += [Step(row.processed_at, "inbox", f"{row.consumer}: effect committed") for row in facts.consumed]
    steps.sort(key=lambda step: (step.at is None, step.at.timestamp() if step.at else 0.0))
    if facts.before_it is not None:
        steps.append(Step(None, "queue", f"waits in the consumer's queue, {facts.before_it} messages before it"))
    elif state is State.SENT:
        steps.append(Step(None, "broker", _whereabouts(looked)))
    return steps


def _pending_text(row: Any) -> str:
    because = f"; last error: {row.last_error}" if row.last_error else ""
    if row.status == "parked":
        return f"parked after {row.attempts} attempts: {row.park_reason or 'no reason given'}{because}"
    if row.leased and row.later:
        return f"a sender holds it until {row.available_at:%H:%M:%S}{because}"
    if row.later:
        return f"put off until {row.available_at:%H:%M:%S}{because}"
    return f"waits for a sender{because}"


def _failing_steps(row: Any) -> list[Step]:
    steps = []
    if row.first_failed_at is not None and row.failed > 1:
        steps.append(Step(row.first_failed_at, "consumer", f"{row.consumer}: failed for the first time"))
    if row.failed:
        steps.append(
            Step(row.last_failed_at, "consumer", f"{row.consumer}: failed {row.failed} times: {row.last_error}")
        )
    if row.started:
        text = (
            f"{row.consumer}: {row.started} runs began whose end nobody saw (a crash, a hang, or one that is running)"
        )
        steps.append(Step(row.updated_at, "consumer", text))
    return steps


def _whereabouts(looked: Looked) -> str:
    if looked.waiting is None:
        return "no effect yet; give --management-url to see whether it may be in a queue"
    if looked.waiting == 0:
        return "no effect yet, and the queue is empty: it is being handled, or its inbox was not asked"
    return f"no effect yet; it may be one of {looked.waiting} messages in the queue and its delay tiers"


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _either(conn: Connection, select: LiteralString, identifier: str, given: UUID | None) -> list[Any]:
    """Rows by message id where the text is one, and by aggregate id: an aggregate's id may be a UUID as well."""
    found = [] if given is None else _rows(conn, select + _BY_ID, (given, 1))
    return found or _rows(conn, select + _BY_AGGREGATE, (identifier, MOST_MESSAGES))


def _rows(conn: Connection, query: LiteralString, parameters: Sequence[Any]) -> list[Any]:
    with conn.cursor(row_factory=namedtuple_row) as cursor:
        return list(cursor.execute(query, parameters))
