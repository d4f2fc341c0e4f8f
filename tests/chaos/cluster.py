"""Three RabbitMQ nodes on this machine that are one cluster: their own cookie and port mapper, nobody else's."""

from __future__ import annotations

import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from chaos.servers import kill, make_virtual_host, rabbitmqctl
from outhaul_local import ports
from outhaul_local.rabbitmq import BrokerPorts, RabbitServer, broker_version
from outhaul_local.tether import Tether, kill_port_mapper
from support import BrokerUnderTest, poll

SIZE = 3
PATIENCE_SECONDS = 240
TICK_SECONDS = 8  # a node that stands still is believed dead after this long, 60 s by default


@dataclass(slots=True)
class Node(RabbitServer):
    """One of several. ``peers`` are the names of all, its own too."""

    peers: tuple[str, ...] = ()

    def _configuration(self) -> str:
        lines = [
            "cluster_formation.peer_discovery_backend = classic_config",
            "cluster_partition_handling = pause_minority",
        ]
        lines += [f"cluster_formation.classic_config.nodes.{n} = {peer}" for n, peer in enumerate(self.peers, 1)]
        return RabbitServer._configuration(self) + "\n".join(lines) + "\n"

    def _environment(self) -> dict[str, str]:
        found = RabbitServer._environment(self)
        arguments = "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"
        return {**found, arguments: f"{found[arguments]} -kernel net_ticktime {TICK_SECONDS}"}


@dataclass(slots=True)
class Cluster:
    """The nodes, by their place in the list."""

    nodes: list[Node]
    tether: Tether
    _cut: list[tuple[Node, Node]] = field(default_factory=list)

    @classmethod
    def form(cls, binary: Path, folder: Path, tether: Tether) -> Cluster:
        """Start all and wait until each knows the others. Raises LocalFailure, AssertionError."""
        run, cookie, password = secrets.token_hex(3), secrets.token_hex(16), secrets.token_hex(16)
        names = [f"outhaul-chaos-{run}-{number}" for number in range(SIZE)]
        epmd = ports.free_port()
        nodes = []
        for name in names:
            home = folder / name
            home.mkdir()
            (home / ".erlang.cookie").write_text(cookie)
            (home / ".erlang.cookie").chmod(0o400)
            nodes.append(
                Node(
                    binary=binary,
                    folder=home,
                    log=folder / f"{name}.log",
                    node=name,
                    password=password,
                    ports=_ports(epmd),
                    statistics_interval_ms=500,
                    peers=tuple(f"{each}@localhost" for each in names),
                )
            )
        cluster = cls(nodes, tether)
        nodes[0]._configure()  # without which not even its version is told
        if int(rabbitmqctl(nodes[0], "version").partition(".")[0]) < 4:
            # One first, for the others to join: three that start at once wait for each other.
            cluster.start(nodes[0])
            cluster._await(nodes[0])
        # From 4 on it is the other way round: the first waits for as many as it was told of.
        cluster.mend()
        return cluster

    def start(self, node: Node) -> None:
        """Launch it; it is not ready yet."""
        node.launch()
        if node.process is not None:
            self.tether.hold(node.process, epmd_port=node.ports.epmd)

    def kill(self, *nodes: Node) -> None:
        """SIGKILL to all of them."""
        for node in nodes:
            kill(node)

    def freeze(self, node: Node) -> None:
        """SIGSTOP."""
        self._signal(node, signal.SIGSTOP)

    def thaw(self, node: Node) -> None:
        """SIGCONT."""
        self._signal(node, signal.SIGCONT)

    def restart(self, node: Node) -> None:
        """End it in order, as an upgrade would, start it and wait until it is one of the cluster's again."""
        self._signal(node, signal.SIGTERM)
        assert node._spawned is not None
        node._spawned.handle.wait(60)
        self.mend()

    def cut_off(self, *nodes: Node) -> None:
        """Break the network between each of these and all others, both ways; all run on and clients reach them."""
        self._refuse([(one, other) for one in nodes for other in self.others(one)])
        for node in nodes:
            # All its links at once: parted one by one, the others would see a partial partition and pause as well.
            self._evaluate(node, "[erlang:disconnect_node(Peer) || Peer <- nodes()]")

    def cut_between(self, one: Node, other: Node) -> None:
        """Break the network between these two alone: a partial partition, for each still sees the third."""
        self._refuse([(one, other)])
        self._evaluate(one, f"erlang:disconnect_node('{other.node}@localhost')")

    def join_again(self) -> None:
        """End what :meth:`cut_off` or :meth:`cut_between` began."""
        for one, others in self._links():
            if one.alive():
                cookies = (f"erlang:set_cookie('{peer.node}@localhost', erlang:get_cookie())" for peer in others)
                self._evaluate(one, *cookies)
        self._cut = []

    def neighbours(self, node: Node) -> list[Node]:
        """The other nodes that this one is connected with now."""
        connected = rabbitmqctl(node, "eval", "nodes().")
        return [each for each in self.others(node) if f"{each.node}@localhost" in connected]

    def mend(self) -> None:
        """Until every node runs and each is one of the cluster's."""
        for node in self.nodes:
            self.thaw(node)
        self.join_again()
        for node in self.nodes:
            if not node.alive():
                self.start(node)
        for node in self.nodes:
            self._await(node)
        poll(lambda: self._running() == SIZE, seconds=180, what="a cluster of three")

    def renew(self) -> None:
        """As :meth:`mend`, and where a node stays mute all are started anew: between scenarios, never in one."""
        try:
            self.mend()
        except (AssertionError, httpx.HTTPError, subprocess.SubprocessError):
            self.kill(*self.nodes)
            self.mend()

    @staticmethod
    def _await(node: Node) -> None:
        # Not await_ready(): where that gives up it ends the port mapper, which is everybody's here.
        poll(node._answers, seconds=PATIENCE_SECONDS, what=f"an answer of {node.node}")
        # Or its next start takes this one for a first boot that was cut short, and removes its data.
        node._unfinished.unlink(missing_ok=True)

    def leader(self, broker: BrokerUnderTest, queue: str) -> Node:
        """The node that leads a queue; the first that runs is asked."""
        described = self._ask(f"/api/queues/{quote(broker.vhost, safe='')}/{queue}")
        assert len(described["members"]) == SIZE
        return next(node for node in self.nodes if described["leader"] == f"{node.node}@localhost")

    def others(self, node: Node) -> list[Node]:
        """All but this one."""
        return [each for each in self.nodes if each is not node]

    def addresses(self) -> list[tuple[str, int]]:
        """Where AMQP is spoken."""
        return [(ports.LOOPBACK, node.ports.amqp) for node in self.nodes]

    def rabbitmqctl(self, *arguments: str) -> None:
        """The same on every node."""
        for node in self.nodes:
            rabbitmqctl(node, *arguments)

    @contextmanager
    def virtual_host(self) -> Iterator[BrokerUnderTest]:
        """A virtual host, seen through the first node; deleted in the end, when all run again."""
        first, name = self.nodes[0], f"chaos-{secrets.token_hex(4)}"
        with httpx.Client(base_url=first.management_url(), timeout=30, trust_env=False) as api:
            make_virtual_host(api, name, first.user)
            version = broker_version(first.management_url())
            yield BrokerUnderTest(first.amqp_url(name), first.management_url(), name, version)
        self.renew()
        with httpx.Client(base_url=first.management_url(), timeout=30, trust_env=False) as api:
            api.delete(f"/api/vhosts/{name}").raise_for_status()

    def end(self) -> None:
        """Kill all, and their port mapper."""
        for node in self.nodes:
            self.thaw(node)
        self.kill(*self.nodes)
        kill_port_mapper(self.nodes[0].ports.epmd)

    def _refuse(self, pairs: list[tuple[Node, Node]]) -> None:
        self._cut = pairs
        for one, others in self._links():
            # A cookie for that peer which the peer does not have: once they part, they agree on no new connection.
            self._evaluate(one, *(f"erlang:set_cookie('{peer.node}@localhost', '{one.node}')" for peer in others))

    def _links(self) -> list[tuple[Node, list[Node]]]:
        """Each node with those that it is cut off from."""
        cut = {frozenset((one.node, other.node)) for one, other in self._cut}
        found = [(one, [peer for peer in self.others(one) if {one.node, peer.node} in cut]) for one in self.nodes]
        return [(one, peers) for one, peers in found if peers]

    @staticmethod
    def _evaluate(node: Node, *expressions: str) -> None:
        rabbitmqctl(node, "eval", ", ".join(expressions) + ".")

    def _running(self) -> int:
        return sum(bool(each.get("running")) for each in self._ask("/api/nodes"))

    def _ask(self, path: str) -> Any:
        node = next(each for each in self.nodes if each.alive())
        return httpx.get(f"{node.management_url()}{path}", timeout=30, trust_env=False).raise_for_status().json()

    def _signal(self, node: Node, number: signal.Signals) -> None:
        if node.process is not None:
            node.process.signal(number)


def _ports(epmd: int) -> BrokerPorts:
    amqp, management, prometheus, distribution = ports.free_ports(4)
    return BrokerPorts(amqp, management, prometheus, distribution, epmd)
