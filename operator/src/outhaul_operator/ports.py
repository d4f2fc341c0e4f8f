"""What the operator needs of the world, as Protocols. Every call ends within a deadline of its own.

A look never raises for what the world may do (a host that is dead, a Secret that is gone, a password that is wrong):
it answers a `Trouble` in words for people. URLs are of Secrets; they never go into a Trouble, a log or an event.
Only an API server that is away raises (`Unreachable`): nothing was decided then, and the whole look is made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from outhaul.topology import Topology
from outhaul_operator.plan import EventNote, Tend
from outhaul_operator.snapshot import BrokerView, InboxDatabase, JobView, OutboxDatabase, Trouble, WaitingRoute
from outhaul_operator.specs import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerUrls:
    """How the broker is reached. Without ``management`` only what AMQP tells is known."""

    amqp: str = field(repr=False)
    management: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """The API server did not take a change. ``conflict``: somebody changed or deleted the object meanwhile."""

    trouble: Trouble
    conflict: bool = False


class Databases(Protocol):
    """The databases of Outboxes and Inboxes."""

    async def look_at_outbox(
        self, url: str, *, stuck_after_seconds: float, run_ids: Sequence[str]
    ) -> OutboxDatabase | Trouble:
        """What waits, who sends, and the records of those runs. Trouble "SchemaMissing" where there are no tables."""

    async def look_at_inbox(self, url: str, *, consumer: str, run_ids: Sequence[str]) -> InboxDatabase | Trouble:
        """How the consumer fares, and the records of those runs."""

    async def tend_history(self, url: str, tend: Tend) -> Trouble | None:
        """Make partitions ahead and drop old ones. Unsent rows stand in another table."""


class Brokers(Protocol):
    """The brokers."""

    async def look(
        self,
        urls: BrokerUrls,
        *,
        routes: Sequence[WaitingRoute] = (),
        queue: str | None = None,
        topology: Topology | Trouble | None = None,
    ) -> BrokerView | Trouble:
        """Alarms, whether these routes lead somewhere, the depths of an inbox's ``queue``, drift from ``topology``."""


class Cluster(Protocol):
    """The API server, for one namespace at a time."""

    async def secret(self, namespace: str, name: str) -> Mapping[str, str] | Trouble:
        """The entries of a Secret that carries the label that allows it; else a Trouble that says which is missing."""

    async def config_map(self, namespace: str, name: str) -> Mapping[str, str] | Trouble:
        """The entries of a ConfigMap."""

    async def body(self, kind: str, namespace: str, name: str) -> Mapping[str, Any] | Trouble | None:
        """One of the custom resources as it is now; None when there is none of that name."""

    async def jobs_of(self, target: Target) -> tuple[JobView, ...] | Trouble:
        """The object's Jobs, as the API server has them now, not as a cache had them."""

    async def write_status(self, target: Target, status: Mapping[str, Any]) -> str | Refused:
        """Replace the status if the object is still at ``target.resource_version``; the new resourceVersion."""

    async def create_job(self, target: Target, manifest: Mapping[str, Any]) -> Refused | None:
        """Create a Job of the object; one that exists already by that name is fine."""

    async def set_ttl(self, target: Target, job: str, seconds: int) -> Refused | None:
        """Let a finished Job be deleted after so long; one that is gone is fine."""

    async def event(self, target: Target, note: EventNote) -> None:
        """Tell an event; one that cannot be told is logged and dropped."""
