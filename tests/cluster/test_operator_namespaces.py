"""Where the chart's operator works: in the namespaces it is given, or everywhere; and nowhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from cluster.conftest import MakeNamespace
from cluster.in_cluster import Servers
from cluster.kube import Kube, KubectlFailed
from cluster.operators import RELEASE, helm, install
from cluster.stage import Stage
from conftest import MakeDatabase
from support import BrokerUnderTest, poll

ROWS = 20


@pytest.fixture
def stages(
    kube: Kube,
    crds: None,
    servers: Servers,
    make_namespace: MakeNamespace,
    make_database: MakeDatabase,
    broker: BrokerUnderTest,
) -> Iterator[list[Stage]]:
    """Three namespaces, each with an order database of its own; the release goes afterwards."""
    made = [
        Stage(kube, servers, make_namespace(), order=make_database(("order",)), waybill="", broker=broker)
        for _ in range(3)
    ]
    made[0].topology()
    yield made
    for stage in made:
        helm("uninstall", RELEASE, "--namespace", stage.namespace, "--ignore-not-found", "--wait")


def test_one_operator_looks_after_the_namespaces_it_is_given_and_no_other(stages: list[Stage]) -> None:
    home, other, foreign = stages
    install(home.kube, home.namespace, operator={"namespaces": [home.namespace, other.namespace]})
    for stage in stages:
        stage.record(ROWS)
        stage.outbox()
    for stage in (home, other):
        sent(stage)
    assert foreign.status("outbox", foreign.name) == {}
    assert foreign.unsent() == ROWS
    questions = ("list outboxes.outhaul.dev", "get secrets", "create jobs.batch")
    assert [may(home, question, foreign.namespace) for question in questions] == [False] * 3
    assert [may(home, question, other.namespace) for question in questions] == [True] * 3


@pytest.mark.alone
def test_an_operator_of_the_whole_cluster_looks_after_every_namespace(stages: list[Stage]) -> None:
    """Its Jobs run as a ServiceAccount that is everywhere."""
    home, other, third = stages
    install(home.kube, home.namespace, operator={"clusterWide": True, "jobServiceAccount": "default"})
    for stage in (other, third):
        stage.record(ROWS)
        stage.outbox()
        sent(stage)
    assert may(home, "list outboxes.outhaul.dev", "default")
    assert not may(home, "list secrets", other.namespace)


def sent(stage: Stage) -> None:
    """All of the Outbox by its Job, in its own namespace."""
    stage.shows("outbox", stage.name, ready="True", pending="0", stuck="0")
    poll(lambda: stage.sent() == ROWS, what="the history")
    [job] = stage.jobs("outbox", stage.name)
    assert job["metadata"]["namespace"] == stage.namespace


def may(home: Stage, question: str, namespace: str) -> bool:
    """Whether the operator's account may do that there."""
    account = f"--as=system:serviceaccount:{home.namespace}:{RELEASE}-operator"
    # kubectl ends with 1 for "no".
    with contextlib.suppress(KubectlFailed):
        return home.kube.kubectl("auth", "can-i", *question.split(), account, "--namespace", namespace).strip() == "yes"
    return False
