"""Faults of RabbitMQ 4.3 and PostgreSQL 18 as Kubernetes makes them: pods killed, servers scaled to nothing and back.

The functions run on this machine, behind proxies; the load and the ledger are those of tests/chaos.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.system import System, assembled
from cluster.in_cluster import Servers
from cluster.kube import Kube
from conftest import MakeDatabase
from outhaul.broker_admin.topology_apply import apply
from outhaul_local.tether import Tether
from outhaul_waybill.topology import TOPOLOGY
from support import BrokerUnderTest, poll

pytestmark = pytest.mark.timeout(600)
SECONDS = 180.0


@pytest.fixture
def system(
    make_database: MakeDatabase,
    broker: BrokerUnderTest,
    tmp_path: Path,
    tether: Tether,
    request: pytest.FixtureRequest,
) -> Iterator[System]:
    """No function started yet."""
    apply(TOPOLOGY, broker.amqp_url, broker.management_url)
    dsns = make_database(("order",)), make_database(("waybill",))
    with assembled(dsns, broker, tmp_path, tether, random.Random(request.node.name)) as made:
        yield made


def kill_pod(kube: Kube, servers: Servers, name: str) -> None:
    """As when its node is lost: no grace."""
    before = kube.read("pods", servers.namespace, f"{name}-0")
    assert before is not None
    where = ("--namespace", servers.namespace, "--grace-period=0", "--force")
    kube.kubectl("delete", "pod", f"{name}-0", *where)

    def another() -> bool:
        pod = kube.read("pods", servers.namespace, f"{name}-0")
        return pod is not None and pod["metadata"]["uid"] != before["metadata"]["uid"]

    poll(another, seconds=SECONDS, what=f"another {name}-0")
    servers.ready(name, seconds=SECONDS)


def test_a_broker_whose_pod_is_killed_again_and_again_costs_no_order(
    system: System, kube: Kube, servers: Servers
) -> None:
    assert system.broker.version >= (4, 3)
    system.start(orders=2, waybills=2)
    with system.load() as load:
        for _ in range(2):
            load.more(60)
            kill_pod(kube, servers, "rabbitmq")
        load.more(30, seconds=SECONDS)
        system.settle(load.finish(seconds=SECONDS), seconds=SECONDS)
    assert system.spent_attempts() == 0


def test_orders_are_taken_while_the_broker_is_scaled_to_nothing(system: System, servers: Servers) -> None:
    system.start()
    with system.load() as load:
        load.more(60)
        servers.scale("rabbitmq", 0)
        load.more(60)
        assert system.pending() > 0
        servers.scale("rabbitmq", 1)
        system.settle(load.finish(seconds=SECONDS), seconds=SECONDS)
    assert system.spent_attempts() == 0


def test_databases_whose_pod_is_killed_double_and_lose_no_order(system: System, kube: Kube, servers: Servers) -> None:
    system.start(orders=2, waybills=2)
    with system.load() as load:
        load.more(60)
        kill_pod(kube, servers, "postgres")
        load.more(60, seconds=SECONDS)
        system.settle(load.finish(seconds=SECONDS), seconds=SECONDS)
    assert system.spent_attempts() == 0
