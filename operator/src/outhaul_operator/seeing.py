"""What a look sees of the world, as the snapshots that the plans are functions of.

A part that cannot be looked at in time is a Trouble in its place: the rest of the look goes on. The URLs of Secrets
live in this module's locals for as long as the look, and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

from outhaul.broker_admin.topology_load import topology_from
from outhaul.errors import ConfigurationError
from outhaul.topology import Topology
from outhaul_operator.ports import Brokers, BrokerUrls, Cluster, Databases
from outhaul_operator.snapshot import (
    BrokerView,
    InboxDatabase,
    InboxSnapshot,
    OutboxDatabase,
    OutboxSnapshot,
    RedriveSnapshot,
    ResendSnapshot,
    Seen,
    Trouble,
    WaitingRoute,
)
from outhaul_operator.specs import (
    BrokerRef,
    InboxSpec,
    OutboxSpec,
    RedriveSpec,
    ResendSpec,
    SecretRef,
    Target,
    TopologyRef,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seeing:
    """Looks at databases and brokers, each for ``timeout_seconds`` at most."""

    cluster: Cluster
    databases: Databases
    brokers: Brokers
    timeout_seconds: float

    async def outbox(self, spec: OutboxSpec, seen: Seen, run_ids: Sequence[str]) -> OutboxSnapshot:
        """An Outbox: its database, which knows the routes, before its broker; both, so that both troubles are told."""
        namespace = seen.target.namespace
        secrets = await self._secrets(namespace, spec)
        topology = await self._topology(namespace, spec.topology)
        database = await self._outbox_database(secrets, spec, run_ids)
        routes = database.routes if isinstance(database, OutboxDatabase) else ()
        broker = await self._broker(secrets, spec.broker, routes=routes, topology=topology)
        return OutboxSnapshot(**_fields(seen), database=database, broker=broker)

    async def inbox(self, spec: InboxSpec, seen: Seen, run_ids: Sequence[str]) -> InboxSnapshot:
        """An Inbox: database and broker at the same time, as neither needs the other."""
        namespace = seen.target.namespace
        secrets = await self._secrets(namespace, spec)
        topology = await self._topology(namespace, spec.topology)
        database, broker = await asyncio.gather(
            self._inbox_database(secrets, spec, run_ids),
            self._broker(secrets, spec.broker, queue=spec.queue, topology=topology),
        )
        return InboxSnapshot(**_fields(seen), database=database, broker=broker)

    async def resend(self, spec: ResendSpec, seen: Seen, run_ids: Sequence[str]) -> ResendSnapshot:
        """A Resend, by way of its Outbox."""
        outbox = await self._other(OutboxSpec, "Outbox", seen.target.namespace, spec.outbox)
        if not isinstance(outbox, OutboxSpec):
            return ResendSnapshot(**_fields(seen), outbox=outbox)
        secrets = await self._secrets(seen.target.namespace, outbox)
        database = await self._outbox_database(secrets, outbox, run_ids)
        broker = None
        if isinstance(database, OutboxDatabase):
            broker = await self._broker(secrets, outbox.broker, routes=database.routes)
        return ResendSnapshot(**_fields(seen), outbox=outbox, database=database, broker=broker)

    async def redrive(self, spec: RedriveSpec, seen: Seen, run_ids: Sequence[str]) -> RedriveSnapshot:
        """A Redrive, by way of its Inbox."""
        inbox = await self._other(InboxSpec, "Inbox", seen.target.namespace, spec.inbox)
        if not isinstance(inbox, InboxSpec):
            return RedriveSnapshot(**_fields(seen), inbox=inbox)
        secrets = await self._secrets(seen.target.namespace, inbox)
        database, broker = await asyncio.gather(
            self._inbox_database(secrets, inbox, run_ids), self._broker(secrets, inbox.broker, queue=inbox.queue)
        )
        return RedriveSnapshot(**_fields(seen), inbox=inbox, database=database, broker=broker)

    async def database_url(self, target: Target, ref: SecretRef) -> str | Trouble:
        """The URL of a database, for what is done after the look."""
        return _Secrets({ref.name: await self.cluster.secret(target.namespace, ref.name)}).entry(ref.name, ref.key)

    async def _secrets(self, namespace: str, spec: OutboxSpec | InboxSpec) -> _Secrets:
        names = list(dict.fromkeys((spec.database.name, spec.broker.name)))
        found = await asyncio.gather(*(self.cluster.secret(namespace, name) for name in names))
        return _Secrets(dict(zip(names, found, strict=True)))

    async def _outbox_database(
        self, secrets: _Secrets, spec: OutboxSpec, run_ids: Sequence[str]
    ) -> OutboxDatabase | Trouble:
        url = secrets.entry(spec.database.name, spec.database.key)
        if isinstance(url, Trouble):
            return url
        look = self.databases.look_at_outbox(url, stuck_after_seconds=spec.stuck_after_seconds, run_ids=run_ids)
        return await self._within("database", look)

    async def _inbox_database(
        self, secrets: _Secrets, spec: InboxSpec, run_ids: Sequence[str]
    ) -> InboxDatabase | Trouble:
        url = secrets.entry(spec.database.name, spec.database.key)
        if isinstance(url, Trouble):
            return url
        return await self._within(
            "database", self.databases.look_at_inbox(url, consumer=spec.consumer, run_ids=run_ids)
        )

    async def _broker(
        self,
        secrets: _Secrets,
        ref: BrokerRef,
        *,
        routes: Sequence[WaitingRoute] = (),
        queue: str | None = None,
        topology: Topology | Trouble | None = None,
    ) -> BrokerView | Trouble:
        amqp = secrets.entry(ref.name, ref.key)
        if isinstance(amqp, Trouble):
            return amqp
        urls = BrokerUrls(amqp=amqp, management=secrets.entry_or_none(ref.name, ref.management_key))
        return await self._within("broker", self.brokers.look(urls, routes=routes, queue=queue, topology=topology))

    async def _topology(self, namespace: str, ref: TopologyRef | None) -> Topology | Trouble | None:
        if ref is None:
            return None
        entries = await self.cluster.config_map(namespace, ref.name)
        if isinstance(entries, Trouble):
            return entries
        where = f"ConfigMap {ref.name}, entry {ref.key}"
        if ref.key not in entries:
            return Trouble("TopologyMissing", f"{where}: there is no such entry; add it")
        try:
            return _parsed(entries[ref.key])
        except (ConfigurationError, ValueError) as error:
            return Trouble("TopologyInvalid", f"{where}: {error}")

    async def _other(self, spec: type[OutboxSpec | InboxSpec], kind: str, namespace: str, name: str) -> Any:
        """The spec of another object; None where there is none, a Trouble where it cannot be read."""
        body = await self.cluster.body(kind, namespace, name)
        if body is None or isinstance(body, Trouble):
            return body
        try:
            return spec.from_body(body)
        except ConfigurationError as error:
            return Trouble("InvalidSpec", f"{kind} {name}: {error}")

    async def _within(self, what: str, look: Awaitable[T]) -> T | Trouble:
        """The outer bound: the adapters have deadlines of their own, which name the address."""
        try:
            async with asyncio.timeout(self.timeout_seconds + 1):
                return await look
        except TimeoutError:
            return Trouble("TimedOut", f"{what}: no answer within {self.timeout_seconds:g} s")


@dataclass(frozen=True, slots=True)
class _Secrets:
    """The Secrets of one look."""

    found: Mapping[str, Mapping[str, str] | Trouble] = field(repr=False)

    def entry(self, name: str, key: str) -> str | Trouble:
        """The entry; a Trouble where the Secret or the entry is missing or not allowed."""
        entries = self.found[name]
        if isinstance(entries, Trouble):
            return entries
        return entries.get(key) or Trouble("SecretKeyMissing", f"Secret {name} has no entry {key}; add it")

    def entry_or_none(self, name: str, key: str) -> str | None:
        """The entry where there is one."""
        entries = self.found[name]
        return None if isinstance(entries, Trouble) else entries.get(key) or None


def _fields(seen: Seen) -> dict[str, Any]:
    return {name: getattr(seen, name) for name in Seen.__dataclass_fields__}


@lru_cache(maxsize=64)
def _parsed(text: str) -> Topology:
    """Parsed once for all Outboxes and Inboxes that name it, and not at every look."""
    return topology_from(json.loads(text))
