"""What was seen of the world at one look: plain frozen values, which the plans are functions of.

A part that could not be looked at is a `Trouble` in its place. No text here may change by itself from one look to the
next (an age, a pid's CPU time, a counter): it goes into conditions, and an idle object's status must stay as it is.
So say since when, never for how long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from outhaul.broker_admin.depths import Depths
from outhaul.broker_admin.topology_diff import Difference
from outhaul.database.outbox_store import Counts
from outhaul.database.runs import Run
from outhaul.tools.findings import Finding
from outhaul.tools.status import LiveSender
from outhaul_operator.outcomes import RunReport
from outhaul_operator.specs import InboxSpec, OutboxSpec, Target


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a part could not be looked at, or why something cannot be done.

    ``reason`` is CamelCase and stable (Unreachable, CredentialsRefused, SchemaMissing, SecretMissing, SecretNotAllowed,
    Timeout, ...); ``message`` says the cause and the remedy in words, without secrets.
    """

    reason: str
    message: str


class WaitingRoute(NamedTuple):
    """Rows of one exchange and routing key: the pending ones, those of them that are stuck, and the parked ones.

    ``last_error`` is what a sender was told last, "" for nothing.
    """

    exchange: str
    routing_key: str
    rows: int
    stuck: int
    last_error: str = ""
    parked: int = 0

    def __str__(self) -> str:
        return f"exchange {self.exchange} by {self.routing_key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxDatabase:
    """The producer's database, by its own clock.

    ``counts`` with the Outbox's stuckAfter. ``senders`` are those heard of lately, a Job's own engine not among them.
    ``routes`` are those with unsent rows, the most stuck first, at most 100. ``findings`` are of
    `outhaul.tools.database_health`. ``runs`` are the records of the run ids that were asked for, as far as they exist.
    """

    counts: Counts
    senders: tuple[LiveSender, ...] = ()
    routes: tuple[WaitingRoute, ...] = ()
    parked_reasons: tuple[tuple[str, int], ...] = ()
    findings: tuple[Finding, ...] = ()
    runs: Mapping[str, Run] = field(default_factory=dict)

    @property
    def at(self) -> datetime:
        """The database's clock at the look."""
        return self.counts.at


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxDatabase:
    """The consumer's database. ``failing`` messages have failed or crashed and have not ended well yet."""

    at: datetime
    failing: int = 0
    findings: tuple[Finding, ...] = ()
    runs: Mapping[str, Run] = field(default_factory=dict)


class DeadLetters(NamedTuple):
    """The dead letters of one reason, among those that were looked at."""

    reason: str
    letters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerView:
    """The broker, by AMQP and where there is a URL for it by its management API.

    ``alarms`` are sentences. ``missing_exchanges`` are of the routes asked for. ``unrouted`` are those of them
    (exchange, routing key) that no queue is bound for. ``differences`` are those from the declared topology; None where
    none is declared. ``unseen`` says why bindings, alarms, depths and differences could not be seen: the management
    API is not given, or does not answer; None when it was asked.

    ``depths`` are an inbox's queues. ``dead_reasons`` and ``oldest_dead_at`` are of the dead letters that were looked
    at; both are empty where the operator may not look into the queue.
    """

    version: str = ""
    alarms: tuple[str, ...] = ()
    missing_exchanges: frozenset[str] = frozenset()
    unrouted: frozenset[tuple[str, str]] = frozenset()
    differences: tuple[Difference, ...] | Trouble | None = None
    unseen: Trouble | None = None
    depths: Depths | None = None
    dead_reasons: tuple[DeadLetters, ...] = ()
    oldest_dead_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A Job of this object, found by the label of its owner's uid.

    ``reason`` and ``message`` are of the Job's failed condition, and while it runs why its last pod does not
    (``Unschedulable``, ``ErrImagePull``, ``PodNotStarted``).
    ``result`` is the last pod's termination message. ``expires``: a ttl is set.
    """

    name: str
    state: Literal["active", "succeeded", "failed"] = "active"
    reason: str = ""
    message: str = ""
    result: RunReport | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires: bool = False


@dataclass(frozen=True, slots=True)
class Tended:
    """When the history was tended by this process last, and what was in the way of it."""

    at: datetime
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What every snapshot has: the object, the status last written, its Jobs.

    ``jobs_refused`` says why the API server did not take the Job asked for last (a quota, an admission policy); None
    once it did. ``slots_free`` is how many more Jobs this operator may start now, over all its objects: the caller
    reserves what the plan asks for before it awaits anything. ``tended`` is what became of tending the history last.
    """

    target: Target
    status: Mapping[str, Any] = field(default_factory=dict)
    jobs: tuple[JobView, ...] = ()
    jobs_refused: Trouble | None = None
    slots_free: int = 10
    tended: Tended | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxSnapshot(Seen):
    """One look at an Outbox. ``broker`` None: it was not looked at."""

    database: OutboxDatabase | Trouble
    broker: BrokerView | Trouble | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxSnapshot(Seen):
    """One look at an Inbox; its broker is looked at even when its database is away."""

    database: InboxDatabase | Trouble
    broker: BrokerView | Trouble


@dataclass(frozen=True, slots=True, kw_only=True)
class ResendSnapshot(Seen):
    """One look at a Resend: its Outbox (None: there is none of that name), and what was seen of that one's parts."""

    outbox: OutboxSpec | Trouble | None
    database: OutboxDatabase | Trouble | None = None
    broker: BrokerView | Trouble | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RedriveSnapshot(Seen):
    """One look at a Redrive: its Inbox (None: there is none of that name), and what was seen of that one's parts."""

    inbox: InboxSpec | Trouble | None
    database: InboxDatabase | Trouble | None = None
    broker: BrokerView | Trouble | None = None


Snapshot = OutboxSnapshot | InboxSnapshot | ResendSnapshot | RedriveSnapshot
