"""What a person asked for, of each of the four kinds: frozen values, read from a custom resource's body.

Defaults and bounds equal those of the resource definitions in the chart; a test holds them to it. Durations are
seconds. ``from_body`` raises ConfigurationError naming the field by its path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from outhaul.configuration.durations import format_duration
from outhaul.tools.letters import Filter
from outhaul_operator.fields import Fields

GROUP = "outhaul.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
ALLOW_LABEL = "outhaul.dev/allow"
"""A Secret is read only where it carries this label with the value ``true``."""

MOST_MESSAGE_IDS = 1000
_KEY_CHARACTERS = 253
_LEAST_STUCK_SECONDS = 60.0  # a sender's lease: a row that a living one holds is not stuck
_MOST_HISTORY_DAYS = 3650


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The object itself. ``resource_version`` guards the writing of its status; ``deleting``: leave it alone."""

    kind: str
    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    deleting: bool = False

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """From an object as the API server gives it."""
        meta = body["metadata"]
        return cls(
            kind=body["kind"],
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta["uid"],
            generation=int(meta.get("generation", 1)),
            resource_version=str(meta.get("resourceVersion", "")),
            deleting=bool(meta.get("deletionTimestamp")),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRef:
    """An entry of a Secret of the same namespace."""

    name: str
    key: str = "url"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerRef:
    """The broker's URL, and in the same Secret, where it is there, the URL of its management API."""

    name: str
    key: str = "url"
    management_key: str = "management-url"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyRef:
    """The entry of a ConfigMap of the same namespace that holds the declared topology."""

    name: str
    key: str = "topology.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResendPolicy:
    """How stuck rows are sent again: at most ``batch_size`` rows by a Job, at most so many Jobs at once."""

    enabled: bool = True
    batch_size: int = 1000
    max_parallel_jobs: int = 1
    max_attempts: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxSpec:
    """A producer's database and broker, and when a row of its outbox counts as stuck."""

    database: SecretRef
    broker: BrokerRef
    topology: TopologyRef | None = None
    stuck_after_seconds: float = 120.0
    interval_seconds: float = 30.0
    resend: ResendPolicy = field(default_factory=ResendPolicy)
    sent_days: int = 30
    alert_oldest_age_seconds: float = 300.0
    alert_parked: int = 1

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """From an Outbox."""
        spec = Fields.of(body, "spec")
        resend, alerts = spec.part("resend"), spec.part("alerts")
        return cls(
            database=_secret(spec, "databaseSecretRef"),
            broker=_broker(spec),
            topology=_topology(spec),
            stuck_after_seconds=spec.seconds("stuckAfter", "2m", least=_LEAST_STUCK_SECONDS),
            interval_seconds=_interval(spec),
            resend=ResendPolicy(
                enabled=resend.flag("enabled", default=True),
                batch_size=resend.number("batchSize", 1000, least=1, most=100_000),
                max_parallel_jobs=resend.number("maxParallelJobs", 1, least=1, most=10),
                max_attempts=resend.number("maxAttempts", 5, least=1, most=100),
            ),
            sent_days=spec.part("retention").number("sentDays", 30, least=1, most=_MOST_HISTORY_DAYS),
            alert_oldest_age_seconds=alerts.seconds("oldestAge", "5m"),
            alert_parked=alerts.number("parked", 1, least=1, most=1_000_000_000),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxSpec:
    """A consumer's database, broker and queue, and from what on people are told."""

    database: SecretRef
    broker: BrokerRef
    consumer: str
    queue: str
    topology: TopologyRef | None = None
    interval_seconds: float = 30.0
    alert_dead_letters: int = 1
    alert_no_consumer_seconds: float = 120.0

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """From an Inbox."""
        spec = Fields.of(body, "spec")
        alerts = spec.part("alerts")
        return cls(
            database=_secret(spec, "databaseSecretRef"),
            broker=_broker(spec),
            topology=_topology(spec),
            consumer=spec.text("consumer", most=100),
            queue=spec.text("queue", most=231),
            interval_seconds=_interval(spec),
            alert_dead_letters=alerts.number("deadLetters", 1, least=1, most=1_000_000_000),
            alert_no_consumer_seconds=alerts.seconds("noConsumer", "2m"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResendSpec:
    """Which rows of which Outbox to send again: exactly one of the three choices is made."""

    outbox: str
    message_ids: tuple[UUID, ...] = ()
    created_between: tuple[datetime, datetime] | None = None
    parked: bool = False

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """From a Resend."""
        spec = Fields.of(body, "spec")
        between = None
        if spec.has("createdBetween"):
            span = spec.part("createdBetween")
            between = (span.instant("from"), span.instant("to"))
            if between[0] >= between[1]:
                raise span.refuse("to", "must be later than createdBetween.from")
        ids = spec.ids("messageIds", most=MOST_MESSAGE_IDS)
        parked = spec.flag("parked", default=False)
        if (bool(ids), between is not None, parked).count(True) != 1:
            raise spec.refuse("parked", "give exactly one of messageIds, createdBetween, and parked: true")
        return cls(outbox=spec.part("outboxRef").text("name"), message_ids=ids, created_between=between, parked=parked)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedriveSpec:
    """Which dead letters of which Inbox to move back, or with ``discard_reason`` to give up for good."""

    inbox: str
    filter: Filter = field(default_factory=Filter)
    limit: int = 1000
    rate_per_second: int = 100
    dry_run: bool = False
    discard_reason: str = ""
    force: bool = False

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """From a Redrive. ``filter`` holds reasons, types, messageIds, subjects, olderThan and newerThan."""
        spec = Fields.of(body, "spec")
        chosen = spec.part("filter")
        older, newer = chosen.seconds_or_none("olderThan"), chosen.seconds_or_none("newerThan")
        if older is not None and newer is not None and older >= newer:
            raise chosen.refuse("olderThan", f"nothing is older than that and newer than {format_duration(newer)}")
        discard = spec.part("discard").text("reason", most=500).strip() if spec.has("discard") else ""
        if spec.has("discard") and not discard:
            raise spec.part("discard").refuse("reason", "say why these messages are worthless; it goes on record")
        return cls(
            inbox=spec.part("inboxRef").text("name"),
            filter=Filter(
                reasons=chosen.texts("reasons"),
                types=chosen.texts("types"),
                # Compared in lower case: whoever made the letter may have written its id otherwise.
                ids=tuple(each.lower() for each in chosen.texts("messageIds", most=MOST_MESSAGE_IDS)),
                subjects=chosen.texts("subjects", most=1000),
                older_than_seconds=older,
                younger_than_seconds=newer,
            ),
            limit=spec.number("limit", 1000, least=1, most=100_000),
            rate_per_second=spec.number("ratePerSecond", 100, least=1, most=10_000),
            dry_run=spec.flag("dryRun", default=False),
            discard_reason=discard,
            force=spec.flag("force", default=False),
        )


Spec = OutboxSpec | InboxSpec | ResendSpec | RedriveSpec


def _secret(spec: Fields, name: str) -> SecretRef:
    ref = spec.part(name)
    return SecretRef(name=ref.text("name"), key=ref.text("key", "url", most=_KEY_CHARACTERS))


def _broker(spec: Fields) -> BrokerRef:
    ref = spec.part("brokerSecretRef")
    return BrokerRef(
        name=ref.text("name"),
        key=ref.text("key", "url", most=_KEY_CHARACTERS),
        management_key=ref.text("managementKey", "management-url", most=_KEY_CHARACTERS),
    )


def _topology(spec: Fields) -> TopologyRef | None:
    if not spec.has("topologyRef"):
        return None
    ref = spec.part("topologyRef")
    return TopologyRef(name=ref.text("name"), key=ref.text("key", "topology.json", most=_KEY_CHARACTERS))


def _interval(spec: Fields) -> float:
    return spec.seconds("interval", "30s", least=5.0, most=3600.0)
