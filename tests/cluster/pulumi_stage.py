"""What the Pulumi program registers, applied to the cluster under test as the provider would: server-side, in order."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pika
import pytest

from cluster import diagnostics
from cluster.in_cluster import Servers
from cluster.kube import Kube
from infra_graph import Graph, entries, graph_of, settings
from outhaul.broker_admin import topology_apply
from outhaul.settings import BrokerSettings, ManagementSettings
from outhaul_waybill.topology import TOPOLOGY
from support import poll

READY_SECONDS = 420  # three Erlang nodes on a machine that does much else
SMALL: dict[str, Any] = {
    "rabbitmq": {"memory": "512Mi", "cpu": "20m", "storage": "1Gi", "graceSeconds": 30},
    "postgres": {"memory": "256Mi", "cpu": "20m", "storage": "1Gi", "maxConnections": 150},
    "retainData": False,
}
# Definitions of these come with the chart, or with what a cluster may lack.
_LEFT_OUT = {"Outbox", "Inbox", "Certificate"}


@dataclass
class PulumiStage:
    """Namespaces of its own, and the graph that stands in them. ``written`` is the stack's configuration."""

    kube: Kube
    written: dict[str, Any]
    run: str = field(default_factory=lambda: secrets.token_hex(3))
    graph: Graph = field(default_factory=Graph)

    @property
    def app(self) -> str:
        """Where the URLs are."""
        return f"infra-app-{self.run}"

    @property
    def data(self) -> str:
        """Where the servers are."""
        return f"infra-data-{self.run}"

    def plan(self, **changed: Any) -> Graph:
        """The graph of the configuration with these changes (sections whole, as in ``SMALL``)."""
        sections = {
            key: value | changed.pop(key, {}) if isinstance(value, dict) else value
            for key, value in self.written.items()
        }
        return graph_of(settings(**(sections | {"namespaces": {"app": self.app, "data": self.data}} | changed)))

    def up(self, **changed: Any) -> None:
        """Apply everything, in the order of dependence."""
        self.graph = self.plan(**changed)
        self.kube.apply(*(each for each in self.graph.objects() if each["kind"] not in _LEFT_OUT))

    def ready(self, seconds: float = READY_SECONDS) -> None:
        """Until every StatefulSet has rolled out what was applied last."""
        for name in ("outhaul-postgres", "outhaul-rabbitmq"):
            poll(lambda name=name: self.rolled_out(name), seconds=seconds, what=f"{name} in {self.data}")  # type: ignore[misc]

    def rolled_out(self, name: str) -> bool:
        """Whether all its pods are ready and as applied last."""
        found = self.kube.read("statefulsets", self.data, name)
        assert found is not None
        status, wanted = found.get("status", {}), found["spec"]["replicas"]
        return bool(
            status.get("observedGeneration") == found["metadata"]["generation"]
            and status.get("readyReplicas") == status.get("updatedReplicas") == wanted
            and status.get("currentRevision") == status.get("updateRevision")
        )

    def down(self) -> None:
        """Ask for the end of both namespaces, and do not wait for it."""
        for name in (self.app, self.data):
            self.kube.delete_soon("namespace", name)

    def url(self, secret: str, entry: str, ways: Servers) -> str:
        """A URL as the stack wrote it, with the address by which this machine gets there."""
        parts = urlsplit(entries(self.graph.one("Secret", secret))[entry])
        assert parts.hostname is not None
        assert parts.port is not None
        host, port = ways.way(parts.hostname.partition(".")[0], parts.port)
        login = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{login}@{host}:{port}"))

    def rabbitmqctl(self, *arguments: str) -> str:
        """As a person would, in the first node's pod."""
        return self.in_broker("rabbitmqctl", *arguments)

    def in_broker(self, *command: str) -> str:
        """What a command prints in that pod."""
        where = ("outhaul-rabbitmq-0", "--namespace", self.data, "--container", "rabbitmq")
        return self.kube.kubectl("exec", *where, "--", *command)

    def in_server(self, script: str) -> str:
        """What a shell script prints in PostgreSQL's pod."""
        where = ("outhaul-postgres-0", "--namespace", self.data, "--container", "postgres")
        return self.kube.kubectl("exec", *where, "--", "sh", "-c", script)

    def psql(self, statement: str) -> str:
        """As the superuser, who comes in by the socket alone."""
        return self.in_server(f'psql --username=postgres --tuples-only --no-align --command "{statement}"')


@contextlib.contextmanager
def running(kube: Kube, written: dict[str, Any]) -> Iterator[PulumiStage]:
    """The servers of such a stack, ready; gone afterwards."""
    made = PulumiStage(kube, written)
    try:
        made.up()
        try:
            made.ready()
        except AssertionError as error:
            pytest.fail(f"{error}\n{diagnostics.of(kube, made.data)}")
        yield made
    finally:
        made.down()


@contextlib.contextmanager
def ways_to(stage: PulumiStage) -> Iterator[Servers]:
    """From this machine to the Services: straight where cluster IPs can be reached, else by port-forwards."""
    made = Servers(stage.kube, stage.data)
    made.find_out("outhaul-postgres", 5432)
    yield made
    made.close()


def connect(url: str) -> pika.BlockingConnection:
    """As our programs connect."""
    return pika.BlockingConnection(BrokerSettings.parse(url).parameters(connection_name="test"))


def declare(stage: PulumiStage, ways: Servers) -> None:
    """The topology, by the identity that may, once all nodes are there."""
    topology_apply.apply(
        TOPOLOGY,
        BrokerSettings.parse(stage.url("topology-broker", "url", ways)),
        ManagementSettings.parse(stage.url("topology-broker", "management-url", ways)),
        nodes=stage.graph.one("StatefulSet", "outhaul-rabbitmq")["spec"]["replicas"],
    )
