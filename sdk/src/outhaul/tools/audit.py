"""Compare what was sent with what took effect: what was lost, and what has come from nowhere?

Both histories are read in order of message id, a page at a time, each page a statement of its own: no long
snapshot holds back vacuum, and memory does not grow with the histories. The two streams are merged like the halves
of a merge sort. Rows move while this reads, so whatever looks amiss is looked up once more by its id before it
counts.

Sent, old enough, and neither in the inbox nor among the dead letters does not mean lost: it may still wait in a
queue, and messages in a queue have no names. So depths are measured *first*. Whatever is missing then was, at that
instant, either in a queue or lost: what exceeds the depth is lost for certain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, LiteralString, NamedTuple
from uuid import UUID

import psycopg

from outhaul.errors import ConfigurationError
from outhaul.ids import EPOCH, first_at

Connection = psycopg.Connection[Any]

PAGE_ROWS: Final = 5_000

_SENT_PAGE: Final[LiteralString] = """
SELECT message_id, sent_at, exchange, routing_key FROM outbox_sent
WHERE message_id > %(after)s AND message_id < %(before)s AND (%(types)s::text[] IS NULL OR type = ANY(%(types)s))
ORDER BY message_id LIMIT %(limit)s"""
_CONSUMED_PAGE: Final[LiteralString] = """
SELECT message_id FROM inbox
WHERE consumer = %(consumer)s AND message_id > %(after)s AND message_id < %(before)s
ORDER BY message_id LIMIT %(limit)s"""
_CONSUMED_AMONG: Final[LiteralString] = (
    "SELECT message_id FROM inbox WHERE consumer = %(consumer)s AND message_id = ANY(%(ids)s)"
)
_FAILING_AMONG: Final[LiteralString] = (
    "SELECT message_id FROM deliveries WHERE consumer = %(consumer)s AND message_id = ANY(%(ids)s)"
)
_SENT_AMONG: Final[LiteralString] = "SELECT message_id FROM outbox_sent WHERE message_id = ANY(%(ids)s)"
_UNSENT_AMONG: Final[LiteralString] = "SELECT message_id FROM outbox WHERE message_id = ANY(%(ids)s)"
_UNSENT: Final[LiteralString] = """
SELECT count(*) FILTER (WHERE status = 'pending'), count(*) FILTER (WHERE status = 'parked') FROM outbox"""
# Consumers are few and their rows many: step from one to the next along the key instead of reading them all.
_CONSUMERS: Final[LiteralString] = """
WITH RECURSIVE step AS (
    SELECT min(consumer) AS consumer FROM inbox
    UNION ALL
    SELECT (SELECT min(consumer) FROM inbox WHERE consumer > step.consumer) FROM step WHERE consumer IS NOT NULL
)
SELECT consumer FROM step WHERE consumer IS NOT NULL
UNION SELECT consumer FROM inbox_consumers ORDER BY consumer"""


class Sent(NamedTuple):
    """One row of the history: confirmed by the broker at ``sent_at``."""

    message_id: UUID
    sent_at: datetime
    exchange: str
    routing_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues:
    """What was on the broker before the databases were read.

    ``waiting`` counts the messages of the consumer's queue and its delay tiers, delivered ones included; None when
    nobody could tell. ``dead`` are the ids of the dead letters; ``dead_unread`` counts letters beyond those read.
    """

    waiting: int | None = None
    dead: frozenset[UUID] = frozenset()
    dead_unread: int = 0


@dataclass(slots=True, kw_only=True)
class Audit:
    """The result. Counts are messages; the lists hold the first few of each kind."""

    consumer: str
    since: datetime
    until: datetime
    grace_seconds: float
    matched: int = 0
    elsewhere: int = 0
    in_flight: int = 0
    dead_lettered: int = 0
    failing: int = 0
    unaccounted: int = 0
    waiting: int | None = None
    unsent: int = 0
    parked: int = 0
    consumed_unmarked: int = 0
    never_sent: int = 0
    unaccounted_ids: list[UUID] = field(default_factory=list)
    never_sent_ids: list[UUID] = field(default_factory=list)

    @property
    def lost(self) -> int | None:
        """Messages that are certainly nowhere; None when there are some unaccounted for and no depth is known."""
        if self.unaccounted == 0:
            return 0
        return None if self.waiting is None else max(0, self.unaccounted - self.waiting)

    @property
    def is_clean(self) -> bool:
        """Nothing lost, nothing from nowhere, as far as can be known."""
        return self.lost == 0 and self.never_sent == 0


def every_route(exchange: str, routing_key: str) -> bool:  # noqa: ARG001 - the shape of a test
    """Whatever was sent was meant for the consumer."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which messages are compared. ``routed`` tells whether a route leads to this consumer's queue."""

    consumer: str
    grace_seconds: float = 60.0
    since: datetime | None = None
    types: tuple[str, ...] = ()
    routed: Callable[[str, str], bool] = every_route
    examples: int = 20


def consumers(inbox: Connection) -> list[str]:
    """Every consumer that ever wrote to this inbox."""
    return [row[0] for row in inbox.execute(_CONSUMERS)]


def only_consumer(inbox: Connection) -> str:
    """The consumer of an inbox that has one. Raises ConfigurationError where a person must choose."""
    found = consumers(inbox)
    if len(found) == 1:
        return found[0]
    known = f"choose one of {', '.join(found)}" if found else "this inbox knows no consumer yet; name it"
    raise ConfigurationError("--consumer", "", known)


def audit(outbox: Connection, inbox: Connection, scope: Scope, queues: Queues) -> Audit:
    """Compare both databases. ``queues`` must have been measured before this is called.

    The connections are in autocommit mode; each page is its own snapshot. Raises psycopg's errors.
    """
    now = _now(outbox)
    since = max(scope.since or EPOCH, _forgotten(outbox, "outbox_sent"), _forgotten(inbox, "inbox"))
    result = Audit(
        consumer=scope.consumer,
        since=since,
        until=now,
        grace_seconds=scope.grace_seconds,
        waiting=None if queues.waiting is None else queues.waiting + queues.dead_unread,
    )
    old = now - timedelta(seconds=scope.grace_seconds)
    # Ids count whole milliseconds: those of this very one are in.
    bounds = {"after": _just_before(since), "before": first_at(now + timedelta(milliseconds=1))}
    sent = _pages(outbox, _SENT_PAGE, {**bounds, "types": list(scope.types) or None})
    consumed = _pages(inbox, _CONSUMED_PAGE, {**bounds, "consumer": scope.consumer})
    pairs = merge((Sent._make(r) for r in sent), (r[0] for r in consumed))
    while chunk := list(islice(pairs, PAGE_ROWS)):
        _take(result, chunk, scope, old, queues, outbox=outbox, inbox=inbox)
    result.unsent, result.parked = outbox.execute(_UNSENT).fetchone() or (0, 0)
    return result


def merge(sent: Iterable[Sent], consumed: Iterable[UUID]) -> Iterator[tuple[Sent | None, UUID | None]]:
    """Pair two streams that are both ascending by message id; what has no partner comes with None."""
    left, right = iter(sent), iter(consumed)
    row, message_id = next(left, None), next(right, None)
    while row is not None or message_id is not None:
        if message_id is None or (row is not None and row.message_id < message_id):
            yield row, None
            row = next(left, None)
        elif row is None or message_id < row.message_id:
            yield None, message_id
            message_id = next(right, None)
        else:
            yield row, message_id
            row, message_id = next(left, None), next(right, None)


def _take(
    result: Audit,
    chunk: Sequence[tuple[Sent | None, UUID | None]],
    scope: Scope,
    old: datetime,
    queues: Queues,
    *,
    outbox: Connection,
    inbox: Connection,
) -> None:
    """Count one stretch of the merged streams."""
    missing: list[UUID] = []
    strange: list[UUID] = []
    for row, message_id in chunk:
        if row is None:
            assert message_id is not None
            strange.append(message_id)
        elif not scope.routed(row.exchange, row.routing_key):
            result.elsewhere += 1
        elif message_id is not None:
            result.matched += 1
        elif row.sent_at > old:
            result.in_flight += 1
        else:
            missing.append(row.message_id)
    _look_for_effect(inbox, result, missing, scope, queues)
    _look_for_origin(outbox, result, strange, scope)


def _look_for_effect(inbox: Connection, result: Audit, missing: Sequence[UUID], scope: Scope, queues: Queues) -> None:
    """Sent long enough ago, not seen in the inbox: consumed meanwhile, dead, failing, or unaccounted for."""
    if not missing:
        return
    asked = {"consumer": scope.consumer, "ids": list(missing)}
    consumed = _ids(inbox, _CONSUMED_AMONG, asked)
    failing = _ids(inbox, _FAILING_AMONG, asked)
    for message_id in missing:
        if message_id in consumed:
            result.matched += 1
        elif message_id in queues.dead:
            result.dead_lettered += 1
        elif message_id in failing:
            result.failing += 1
        else:
            result.unaccounted += 1
            if len(result.unaccounted_ids) < scope.examples:
                result.unaccounted_ids.append(message_id)


def _look_for_origin(outbox: Connection, result: Audit, strange: Sequence[UUID], scope: Scope) -> None:
    """Consumed, not seen in the history: sent meanwhile, not yet marked as sent, or from nowhere."""
    if not strange:
        return
    # In this order: a row that moves between the two looks is then seen by one of them.
    unsent = _ids(outbox, _UNSENT_AMONG, {"ids": list(strange)})
    sent = _ids(outbox, _SENT_AMONG, {"ids": list(strange)})
    for message_id in strange:
        if message_id in sent:
            result.matched += 1
        elif message_id in unsent:
            result.consumed_unmarked += 1
        else:
            result.never_sent += 1
            if len(result.never_sent_ids) < scope.examples:
                result.never_sent_ids.append(message_id)


def _ids(conn: Connection, query: LiteralString, parameters: dict[str, Any]) -> set[UUID]:
    return {row[0] for row in conn.execute(query, parameters)}


def _pages(conn: Connection, query: LiteralString, parameters: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """All rows of a query whose first column is its ascending key, a page a statement."""
    with conn.cursor(binary=True) as cursor:
        after = parameters["after"]
        while True:
            rows = cursor.execute(query, {**parameters, "after": after, "limit": PAGE_ROWS}).fetchall()
            yield from rows
            if len(rows) < PAGE_ROWS:
                return
            after = rows[-1][0]


def _now(conn: Connection) -> datetime:
    row = conn.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment


def _forgotten(conn: Connection, table: str) -> datetime:
    """The instant before which the table's rows may have been dropped."""
    row = conn.execute(
        "SELECT forgotten_before FROM retention WHERE table_name = %s AND isfinite(forgotten_before)", (table,)
    ).fetchone()
    moment: datetime = row[0] if row else EPOCH
    return moment


def _just_before(moment: datetime) -> UUID:
    """The id after which the ids of that instant begin."""
    return UUID(int=max(0, first_at(moment).int - 1))
