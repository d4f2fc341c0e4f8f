"""What a scenario plays on: databases, a virtual host and custom resources of its own, in a namespace."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pika
import psycopg

from cluster.in_cluster import Servers
from cluster.kube import Kube
from letter_support import Shop, connected, new_id
from outhaul import Message, Outbox, deadletter
from outhaul.broker_admin.topology_apply import apply as apply_topology
from outhaul.topology import Topology
from outhaul_waybill.topology import TOPOLOGY
from support import BrokerUnderTest, poll

API_VERSION = "outhaul.dev/v1alpha1"
ALLOWED = {"outhaul.dev/allow": "true"}
EXCHANGE, ROUTING_KEY, QUEUE, DLQ = "outhaul.events", "order.created", "outhaul.waybill", "outhaul.waybill.dlq"
TYPE = "dev.outhaul.order.created.v1"
KINDS = {"outbox": "outboxes", "inbox": "inboxes", "resend": "resends", "redrive": "redrives"}
# The kubelet, the operator's interval and a Job's pod: each takes its seconds on a busy machine.
SECONDS = 90.0
_OLDER = "UPDATE outbox SET created_at = created_at - %s::interval, available_at = clock_timestamp() - %s::interval"


@dataclass(slots=True)
class Stage:
    """``name`` begins the names of all it makes, so that scenarios can share a namespace.

    ``order`` and ``waybill`` are the databases' URLs for this machine; the Secrets have those for pods.
    """

    kube: Kube
    servers: Servers
    namespace: str
    order: str
    waybill: str
    broker: BrokerUnderTest
    name: str = field(default_factory=lambda: f"t{secrets.token_hex(3)}")

    # --- what a person applies

    def secret(self, purpose: str, entries: Mapping[str, str], *, allowed: bool = True) -> str:
        """A Secret with these entries; its name."""
        name = f"{self.name}-{purpose}"
        metadata = {"name": name, "labels": ALLOWED if allowed else {}}
        self.kube.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": dict(entries)},
            namespace=self.namespace,
        )
        return name

    def broker_entries(self, broker: BrokerUnderTest | None = None) -> dict[str, str]:
        """The broker's URLs as pods need them."""
        given = broker or self.broker
        return {
            "url": self.servers.inside(given.amqp_url),
            "management-url": self.servers.inside(given.management_url),
        }

    def topology(self, declared: Topology = TOPOLOGY) -> None:
        """Declare exchanges, queues, bindings and policies, as the topology Job does."""
        apply_topology(declared, self.broker.amqp_url, self.broker.management_url)

    def outbox(self, name: str | None = None, **spec: Any) -> str:
        """An Outbox over the order database, and its Secrets; looked at every 5 seconds. Its name."""
        made = name or self.name
        database = self.secret("order-database", {"url": self.servers.inside(self.order)})
        broker = self.secret("broker", self.broker_entries())
        self.apply(
            "Outbox",
            made,
            {
                "databaseSecretRef": {"name": database},
                "brokerSecretRef": {"name": broker},
                "stuckAfter": "60s",
                "interval": "5s",
                **spec,
            },
        )
        return made

    def inbox(self, name: str | None = None, **spec: Any) -> str:
        """An Inbox over the waybill database, and its Secrets; looked at every 5 seconds. Its name."""
        made = name or self.name
        database = self.secret("waybill-database", {"url": self.servers.inside(self.waybill)})
        broker = self.secret("broker", self.broker_entries())
        self.apply(
            "Inbox",
            made,
            {
                "databaseSecretRef": {"name": database},
                "brokerSecretRef": {"name": broker},
                "consumer": "waybill",
                "queue": QUEUE,
                "interval": "5s",
                **spec,
            },
        )
        return made

    def resend(self, name: str, outbox: str, **chosen: Any) -> str:
        """A Resend of that Outbox's rows; its name."""
        made = f"{self.name}-{name}"
        self.apply("Resend", made, {"outboxRef": {"name": outbox}, **chosen})
        return made

    def redrive(self, name: str, inbox: str, **chosen: Any) -> str:
        """A Redrive of that Inbox's dead letters; its name."""
        made = f"{self.name}-{name}"
        self.apply("Redrive", made, {"inboxRef": {"name": inbox}, **chosen})
        return made

    def apply(self, kind: str, name: str, spec: Mapping[str, Any]) -> None:
        """Apply a custom resource."""
        self.kube.apply(
            {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": dict(spec)},
            namespace=self.namespace,
        )

    def clear(self) -> None:
        """Delete what was applied; the Jobs go with their owners."""
        for plural in (*KINDS.values(), "secrets"):
            for found in self.kube.all(plural, self.namespace):
                if found["metadata"]["name"].startswith(self.name):
                    self.kube.delete_soon(plural, found["metadata"]["name"], self.namespace)

    # --- what a person sees

    def row(self, kind: str, name: str) -> dict[str, str]:
        """The object's line of ``kubectl get``, by column; empty when there is none."""
        return next((row for row in self.kube.table(KINDS[kind], self.namespace) if row["NAME"] == name), {})

    def shows(self, kind: str, name: str, *, seconds: float = SECONDS, **columns: str) -> dict[str, str]:
        """Until ``kubectl get`` shows these (ready="True", dead_letters="0"); the whole line, by heading."""
        wanted = {column.upper().replace("_", " "): value for column, value in columns.items()}
        shown: dict[str, str] = {}

        def as_wanted() -> bool:
            # The status is cheap to ask for; the table is drawn only when it has changed.
            status = self.status(kind, name)
            if shown.get("_status") != repr(status):
                shown.clear()
                shown.update(self.row(kind, name), _status=repr(status))
            return all(shown.get(column) == value for column, value in wanted.items())

        try:
            poll(as_wanted, seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{kind} {name} should show {wanted}, and shows {shown}") from error
        return {column: value for column, value in shown.items() if column != "_status"}

    def status(self, kind: str, name: str) -> dict[str, Any]:
        """The object's status; empty when there is none."""
        found = self.kube.read(KINDS[kind], self.namespace, name)
        return {} if found is None else dict(found.get("status") or {})

    def condition(self, kind: str, name: str, type_: str) -> dict[str, Any]:
        """The condition of that type; empty when there is none."""
        conditions = self.status(kind, name).get("conditions") or []
        return next((dict(each) for each in conditions if each["type"] == type_), {})

    def says(
        self, kind: str, name: str, type_: str, status: str, words: str = "", *, seconds: float = SECONDS
    ) -> dict[str, Any]:
        """Until the condition has that status and its message matches these words (a pattern)."""
        seen: dict[str, Any] = {}

        def so() -> bool:
            seen.clear()
            seen.update(self.condition(kind, name, type_))
            return seen.get("status") == status and bool(re.search(words, seen.get("message", "")))

        try:
            poll(so, seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{type_} of {kind} {name} should be {status} and say {words!r}: {seen}") from error
        return seen

    def reaches(self, kind: str, name: str, phase: str, *, seconds: float = SECONDS) -> dict[str, Any]:
        """Until a Resend or Redrive is in that phase; its status. Fails at once in another phase that is final."""

        def so() -> dict[str, Any] | None:
            status = self.status(kind, name)
            seen = status.get("phase")
            assert seen == phase or seen not in {"Succeeded", "Failed"}, f"{kind} {name} is {seen}: {status}"
            return status if seen == phase else None

        return poll(so, seconds=seconds, what=f"{kind} {name} in phase {phase}") or {}

    def events(self, name: str) -> list[str]:
        """``Reason: message`` of every event about objects of that name, the oldest first."""
        found = [each for each in self.kube.all("events", self.namespace) if each["involvedObject"]["name"] == name]
        found.sort(key=lambda each: str(each.get("firstTimestamp") or each.get("eventTime") or ""))
        return [f"{each['reason']}: {each['message']}" for each in found]

    def tells(self, name: str, words: str, *, seconds: float = SECONDS) -> str:
        """Until an event about that object matches these words; the event."""
        return poll(
            lambda: next((event for event in self.events(name) if re.search(words, event)), ""),
            seconds=seconds,
            what=f"an event about {name} that says {words!r}",
        )

    def jobs(self, owner_kind: str, owner: str) -> list[dict[str, Any]]:
        """The Jobs that this object owns."""
        found = self.kube.read(KINDS[owner_kind], self.namespace, owner)
        uid = found["metadata"]["uid"] if found else None
        return [
            job
            for job in self.kube.all("jobs", self.namespace)
            if any(reference["uid"] == uid for reference in job["metadata"].get("ownerReferences", []))
        ]

    # --- what a sender and a consumer would have left

    def record(self, count: int, *, aged: str = "10 minutes") -> list[UUID]:
        """Messages recorded in the order database by nobody who lives to send them; their ids."""
        made: list[UUID] = []
        with psycopg.connect(self.order) as conn:
            for start in range(0, count, 1000):
                messages = [_message() for _ in range(start, min(start + 1000, count))]
                made.extend(added.message_id for added in Outbox(exchange=EXCHANGE).add(conn, *messages))
        self.age(aged)
        return made

    def age(self, by: str = "10 minutes") -> None:
        """Let every row of the outbox be so much older, and free: whoever held it let go long ago."""
        self.query(self.order, _OLDER, by, by)

    def unsent(self) -> int:
        """Rows of the outbox."""
        return int(self.query(self.order, "SELECT count(*) FROM outbox")[0][0])

    def sent(self) -> int:
        """Rows of the history."""
        return int(self.query(self.order, "SELECT count(*) FROM outbox_sent")[0][0])

    def query(self, url: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """What a statement gives; it commits by itself."""
        with psycopg.connect(url, autocommit=True) as conn:
            done = conn.execute(statement.encode(), parameters)
            return done.fetchall() if done.description else []

    def depth(self, queue: str = QUEUE) -> int:
        """Messages ready in the queue."""
        with connected(self.broker) as shop:
            return shop.depth(queue)

    def letters(self, count: int, *, reason: str = "rejected", body: bytes | None = None) -> list[UUID]:
        """Dead letters as the waybill function leaves them; their ids. ``body`` None: the order would do now."""
        with connected(self.broker) as shop:
            return [_letter(shop, reason, body) for _ in range(count)]


def _message() -> Message:
    order = str(uuid4())
    return Message(type=TYPE, routing_key=ROUTING_KEY, aggregate_id=order, data=_order(order))


def _order(order: str) -> dict[str, Any]:
    lines = [{"sku": "kettle", "quantity": 1, "unit_price_cents": 1999}]
    return {"order_id": order, "customer": "north", "lines": lines}


def _letter(shop: Shop, reason: str, body: bytes | None) -> UUID:
    made, order, now = new_id(), str(uuid4()), datetime.now(UTC)
    envelope = {
        "specversion": "1.0",
        "id": str(made),
        "type": TYPE,
        "source": EXCHANGE,
        "subject": order,
        "data": _order(order),
    }
    written = deadletter.Letter(
        reason=reason,
        error="Reject: no courier",
        failed=1,
        first_failed_at=now,
        last_failed_at=now,
        exchange=EXCHANGE,
        routing_key=ROUTING_KEY,
        consumer="waybill",
    )
    properties = pika.BasicProperties(
        message_id=str(made),
        type=TYPE,
        delivery_mode=2,
        content_type="application/cloudevents+json",
        headers=written.headers({}),
    )
    shop.channel.basic_publish("", DLQ, body or json.dumps(envelope).encode(), properties, mandatory=True)
    return made
