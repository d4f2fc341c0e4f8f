"""What waits, what is stuck, who sends and who consumes: one look at whatever parts are given.

Each function reads one part; `judge` turns what was read into findings, and is pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString, NamedTuple
from uuid import UUID

import psycopg

from outhaul.broker_admin.depths import Depths
from outhaul.database import outbox_queries
from outhaul.database.outbox_store import Counts
from outhaul.ids import first_at
from outhaul.tools.audit import consumers
from outhaul.tools.findings import Finding, Level

Connection = psycopg.Connection[Any]

STUCK_AFTER_SECONDS: Final = 60.0
# A sender writes every 10 s; after three that did not come, nobody is there.
SILENT_SECONDS: Final = 30.0
LATELY_SECONDS: Final = 300.0
# How the state begins that a sender writes of itself while nothing keeps it from sending.
SENDING: Final = ("connected", "reopening", "starting")
MEND_ROUTE: Final = "they go out by themselves once the cause is gone; `outhaul topology diff` tells what is missing"

_TROUBLED_ROUTES: Final[LiteralString] = """
SELECT exchange, routing_key, count(*), max(last_error) FROM outbox
WHERE status = 'pending' AND last_error IS NOT NULL GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 5"""
_SENT_LATELY: Final[LiteralString] = "SELECT count(*) FROM outbox_sent WHERE message_id >= %s"
_CONSUMED_LATELY: Final[LiteralString] = "SELECT count(*) FROM inbox WHERE consumer = %s AND message_id >= %s"
# (consumer,) -> messages that have not ended well yet, the most runs nobody saw end, the most failures
FAILING: Final[LiteralString] = """
SELECT count(*), coalesce(max(started), 0), coalesce(max(failed), 0) FROM deliveries WHERE consumer = %s"""
_LATELY: Final[LiteralString] = "SELECT clock_timestamp() - make_interval(secs => %s::float8)"


class LiveSender(NamedTuple):
    """One sender that was heard of lately."""

    sender_id: UUID
    name: str
    host: str
    version: str
    state: str
    started_at: datetime
    seen_at: datetime


class Route(NamedTuple):
    """Rows of one route that could not be sent, and what the broker said last."""

    exchange: str
    routing_key: str
    rows: int
    last_error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxStatus:
    """The producer's side. ``sent_lately`` counts messages recorded in the last five minutes that are sent."""

    counts: Counts
    senders: tuple[LiveSender, ...]
    troubled_routes: tuple[Route, ...]
    parked_reasons: tuple[tuple[str, int], ...]
    sent_lately: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerStatus:
    """One consumer's side of an inbox. ``failing`` messages have failed or crashed and have not ended well yet."""

    consumer: str
    consumed_lately: int
    failing: int
    most_started: int
    most_failed: int


def read_outbox(conn: Connection, *, stuck_after_seconds: float = STUCK_AFTER_SECONDS) -> OutboxStatus:
    """The producer's side now. Reads the whole hot table once. Raises psycopg's errors."""
    row = conn.execute(outbox_queries.COUNT, {"stuck_after_seconds": stuck_after_seconds}).fetchone()
    assert row is not None
    senders = conn.execute(outbox_queries.LIVE_SENDERS, {"silent_seconds": SILENT_SECONDS}).fetchall()
    return OutboxStatus(
        counts=Counts(*row),
        senders=tuple(LiveSender._make(sender) for sender in senders),
        troubled_routes=tuple(Route._make(route) for route in conn.execute(_TROUBLED_ROUTES).fetchall()),
        parked_reasons=tuple(conn.execute(outbox_queries.PARKED_REASONS).fetchall()),
        sent_lately=_one(conn, _SENT_LATELY, (_lately(conn),)),
    )


def read_inbox(conn: Connection, consumer: str | None = None) -> tuple[ConsumerStatus, ...]:
    """One consumer, or every consumer of this inbox. Raises psycopg's errors."""
    since = _lately(conn)
    found = []
    for name in [consumer] if consumer else consumers(conn):
        failing = conn.execute(FAILING, (name,)).fetchone() or (0, 0, 0)
        found.append(
            ConsumerStatus(
                consumer=name,
                consumed_lately=_one(conn, _CONSUMED_LATELY, (name, since)),
                failing=failing[0],
                most_started=failing[1],
                most_failed=failing[2],
            )
        )
    return tuple(found)


def judge(
    *,
    outbox: OutboxStatus | None = None,
    inbox: Sequence[ConsumerStatus] | None = None,
    queue: str = "",
    depths: Depths | None = None,
) -> list[Finding]:
    """What of all this a person should know. Parts that were not read are left out."""
    findings: list[Finding] = []
    if outbox is not None:
        findings += _judge_outbox(outbox)
    if inbox is not None:
        findings += [_judge_consumer(consumer) for consumer in inbox]
    if depths is not None:
        findings += judge_queues(queue, depths)
    return findings


def _judge_outbox(status: OutboxStatus) -> list[Finding]:
    counts = status.counts
    findings = []
    away = [sender for sender in status.senders if not sender.state.startswith(SENDING)]
    for sender in away:
        text = f"{sender.name} on {sender.host} sends nothing: {sender.state}"
        findings.append(Finding("senders", Level.WARNING, text, "the rows wait, and go out once it can send again"))
    if status.senders:
        findings += [] if away else [Finding("senders", Level.OK, f"{len(status.senders)} alive")]
    elif counts.pending:
        text = f"none alive, and {counts.pending} rows wait"
        findings.append(Finding("senders", Level.PROBLEM, text, "start the producer, or run: outhaul resend --watch"))
    else:
        findings.append(Finding("senders", Level.OK, "none alive, and nothing waits"))
    if counts.stuck:
        text = f"{counts.stuck} rows are free and old; the oldest was recorded {counts.oldest_age_seconds:.0f} s ago"
        findings.append(Finding("stuck", Level.PROBLEM, text, "see the routes and senders; then: outhaul resend"))
    else:
        findings.append(Finding("stuck", Level.OK, f"none; {counts.pending} rows wait"))
    for route in status.troubled_routes:
        text = f"{route.rows} rows to {route.exchange!r} by {route.routing_key!r}: {route.last_error}"
        findings.append(Finding("route", Level.WARNING, text, MEND_ROUTE))
    for reason, rows in status.parked_reasons:
        text = f"{rows} rows: {reason or 'no reason given'}"
        remedy = "mend the cause and `outhaul resend --parked`, or `outhaul discard` with a reason"
        findings.append(Finding("parked", Level.PROBLEM, text, remedy))
    return findings


def _judge_consumer(status: ConsumerStatus) -> Finding:
    check = f"consumer {status.consumer}"
    if status.failing:
        text = (
            f"{status.failing} messages failing (up to {status.most_failed} failures, {status.most_started} open runs)"
        )
        return Finding(check, Level.WARNING, text, "`outhaul trace ID` tells why; they end by themselves")
    return Finding(check, Level.OK, f"{status.consumed_lately} effects of the last five minutes' messages")


def judge_queues(queue: str, depths: Depths) -> list[Finding]:
    """The broker's side: consumers, dead letters, and letters that cannot be delivered."""
    if depths.main is None:
        text = f"queue {queue!r} does not exist"
        return [Finding("queue", Level.PROBLEM, text, "run: outhaul topology apply; or check --queue")]
    findings = []
    main, dead = depths.main, depths.dead
    held = main.total or 0
    if main.consumers == 0 and held:
        text = f"{held} messages in {queue!r} and nobody consumes"
        findings.append(Finding("queue", Level.PROBLEM, text, "start the consumer, and see its log"))
    else:
        in_tiers = sum(tier.total or 0 for tier in depths.tiers)
        text = f"{held} in {queue!r}, {in_tiers} waiting for their next attempt, {main.consumers} consumers"
        findings.append(Finding("queue", Level.OK, text))
    if main.awaiting_dead_lettering:
        text = (
            f"{main.awaiting_dead_lettering} messages cannot be dead-lettered: the dead-letter queue is missing or full"
        )
        findings.append(
            Finding("dead-lettering", Level.PROBLEM, text, "run: outhaul topology apply; then empty the DLQ")
        )
    if dead is None:
        findings.append(Finding("dlq", Level.PROBLEM, "there is no dead-letter queue", "run: outhaul topology apply"))
    elif dead.total:
        remedy = "`outhaul dlq list` tells why; then redrive or discard them"
        findings.append(Finding("dlq", Level.PROBLEM, f"{dead.total} dead letters", remedy))
    else:
        findings.append(Finding("dlq", Level.OK, "empty"))
    return findings


def _lately(conn: Connection) -> UUID:
    row = conn.execute(_LATELY, (LATELY_SECONDS,)).fetchone()
    assert row is not None
    return first_at(row[0])


def _one(conn: Connection, query: LiteralString, parameters: Sequence[Any]) -> int:
    row = conn.execute(query, parameters).fetchone()
    return int(row[0]) if row else 0
