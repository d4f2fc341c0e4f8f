"""The acceptance run: the whole stack, and everything taken from it that a bad day takes, while orders come in.

Twice where there is a pulumi command: as the provider would apply it, and by `pulumi up`. It brings its own definitions
of the custom resources and takes them away, so nothing else of ours may be in the cluster: ``make acceptance``.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from chaos.ledger import Told, judge
from chaos.ledger_reading import backlog, read
from chaos.load import Load
from cluster import diagnostics
from cluster.deployed import Applied, ByPulumi, Deployed, Way, clear, definitions, free_of_definitions, gone
from cluster.in_cluster import Servers
from cluster.kube import Kube
from cluster.operators import TAG, helm, merged
from cluster.pulumi_stage import SMALL
from conftest import missing
from support import BrokerUnderTest, poll

pytestmark = [pytest.mark.timeout(1800), pytest.mark.alone]
ORDERS = 2000
SECONDS = 300.0
WRITTEN: dict[str, Any] = SMALL | {
    "images": {"tag": TAG},
    "order": {"replicas": 2, "poolSize": 4},
    "waybill": {"minReplicas": 0, "maxReplicas": 3, "poolSize": 4},
    "keda": {"enabled": True},
    "chart": {
        "keepCrds": False,
        "values": {"keda": {"pollingInterval": 2, "cooldownPeriod": 30, "scaleDownStabilizationSeconds": 0}},
    },
    "waitSeconds": 600,
}
CHANGED = merged(
    WRITTEN,
    {
        "rabbitmq": {"extraConfig": {"consumer_timeout": 1900000}},
        "chart": {"values": {"log": {"level": "warning"}, "functions": {"order": {"drainSeconds": 15}}}},
    },
)


@pytest.fixture(scope="module", params=["applied", "pulumi"])
def way(request: pytest.FixtureRequest, kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    """Up, in a cluster that has nothing of ours; taken away again if no test did."""
    if request.param == "pulumi" and shutil.which("pulumi") is None:
        pytest.skip("there is no pulumi on PATH, so the acceptance run by `pulumi up` is not tried")
    if kube.path("/apis/keda.sh/v1alpha1") is None:
        missing("KEDA")
    free_of_definitions(kube)
    made: Way = (
        ByPulumi(tmp_path_factory.mktemp("pulumi"), secrets.token_hex(3))
        if request.param == "pulumi"
        else Applied(kube)
    )
    try:
        try:
            made.up(WRITTEN)
        except AssertionError as error:
            told = "\n".join(diagnostics.of(kube, name) for name in (made.app, made.data))
            pytest.fail(f"{error}\n{told}")
        yield made
    finally:
        clear(kube, made)


@pytest.fixture(scope="module")
def deployed(kube: Kube, way: Way) -> Deployed:
    """What stands there."""
    return Deployed(kube, way)


@pytest.fixture(scope="module")
def ways(kube: Kube, way: Way) -> Iterator[Servers]:
    """From this machine to the servers. A port-forward ends with its pod, and pods are what is taken here."""
    made = Servers(kube, way.data)
    made.find_out("outhaul-postgres", 5432)
    if not made.direct:
        pytest.skip("this machine does not reach the cluster's addresses")
    yield made
    made.close()


@pytest.fixture(scope="module")
def broker(deployed: Deployed, ways: Servers) -> BrokerUnderTest:
    """The broker, for a user who may look into every queue."""
    password = secrets.token_hex(12)
    deployed.in_broker("rabbitmqctl", "--quiet", "add_user", "ledger", password)
    deployed.in_broker("rabbitmqctl", "--quiet", "set_user_tags", "ledger", "administrator")
    deployed.in_broker("rabbitmqctl", "--quiet", "set_permissions", "ledger", ".*", ".*", ".*")
    (host, amqp), (_, http) = ways.way("outhaul-rabbitmq", 5672), ways.way("outhaul-rabbitmq", 15672)
    login = f"ledger:{password}@{host}"
    return BrokerUnderTest(f"amqp://{login}:{amqp}/%2F", f"http://{login}:{http}", "/", (4, 3))


@pytest.fixture(scope="module")
def shop(kube: Kube, way: Way, ways: Servers) -> str:
    """The order function's URL."""
    host, port = Servers(kube, way.app, direct=ways.direct).way("outhaul-order", 8080)
    return f"http://{host}:{port}"


@pytest.fixture(scope="module")
def told() -> Told:
    """What all clients of the run were told."""
    return Told()


def _remember(told: Told, more: Told) -> None:
    told.attempted |= more.attempted
    told.acknowledged.update(more.acknowledged)
    told.unknown.update(more.unknown)
    told.refused.update(more.refused)


def _settle(deployed: Deployed, ways: Servers, broker: BrokerUnderTest, told: Told) -> None:
    """Until nothing waits; then every order has its one waybill."""
    order, waybill = (deployed.url(f"{name}-database", "url", ways) for name in ("order", "waybill"))
    poll(lambda: backlog(order, broker) == 0, seconds=SECONDS, what="the end of the backlog")
    verdict = judge(told, read(order, waybill, broker))
    verdict.require_whole()
    assert verdict.waybills == verdict.committed == verdict.acknowledged
    assert (verdict.parked, verdict.dead_lettered) == (0, 0)


def test_it_comes_up_and_says_that_all_is_well(deployed: Deployed, kube: Kube) -> None:
    poll(deployed.all_is_well, seconds=SECONDS, what="Outbox and Inbox to be Ready")
    nodes = [each for each in kube.all("pods", deployed.way.data) if "rabbitmq" in each["metadata"]["name"]]
    assert len(nodes) == 3
    for name in (deployed.way.app, deployed.way.data):
        labels = (kube.path(f"/api/v1/namespaces/{name}") or {})["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_orders_become_waybills_while_pods_are_taken(
    deployed: Deployed, kube: Kube, ways: Servers, broker: BrokerUnderTest, shop: str, told: Told
) -> None:
    app, data = deployed.way.app, deployed.way.data

    def take(namespace: str, pod: str) -> None:
        kube.kubectl("delete", "pod", pod, "--namespace", namespace, "--wait=false")

    with Load([shop], rate=60, prefix="accept") as load:
        share = ORDERS // 6
        load.more(share, seconds=SECONDS)
        take(data, "outhaul-rabbitmq-1")
        load.more(share, seconds=SECONDS)
        take(app, deployed.pods("order")[0])
        load.more(share, seconds=SECONDS)
        take(data, "outhaul-postgres-0")
        load.more(share, seconds=SECONDS)
        take(app, deployed.pods("waybill")[0])
        load.more(share, seconds=SECONDS)
        take(app, deployed.pods("operator")[0])
        load.more(ORDERS - load.acknowledged, seconds=SECONDS)
        _remember(told, load.finish(seconds=SECONDS))
    assert len(told.acknowledged) >= ORDERS
    _settle(deployed, ways, broker, told)
    poll(deployed.all_is_well, seconds=SECONDS, what="Outbox and Inbox to be Ready again")


def test_no_consumer_runs_while_nothing_waits_and_orders_bring_them_back(
    deployed: Deployed, ways: Servers, broker: BrokerUnderTest, shop: str, told: Told
) -> None:
    poll(lambda: deployed.replicas("outhaul-waybill") == 0, seconds=SECONDS, what="no consumer")
    with Load([shop], prefix="woken") as load:
        load.more(50, seconds=SECONDS)
        poll(lambda: deployed.replicas("outhaul-waybill") > 0, seconds=SECONDS, what="a consumer")
        _remember(told, load.finish(seconds=SECONDS))
    _settle(deployed, ways, broker, told)


def test_an_upgrade_under_load_loses_nothing(
    deployed: Deployed, ways: Servers, broker: BrokerUnderTest, shop: str, told: Told
) -> None:
    with Load([shop], rate=20, prefix="upgrade") as load:
        load.more(20, seconds=SECONDS)
        deployed.way.up(CHANGED)
        load.more(20, seconds=SECONDS)
        _remember(told, load.finish(seconds=SECONDS))
    assert "1900000" in deployed.in_broker(
        "rabbitmqctl", "--quiet", "eval", "application:get_env(rabbit, consumer_timeout)."
    )
    _settle(deployed, ways, broker, told)
    poll(deployed.all_is_well, seconds=SECONDS, what="Outbox and Inbox to be Ready again")


def test_nothing_is_left_of_it(deployed: Deployed, kube: Kube) -> None:
    assert len(definitions(kube)) == 4
    deployed.way.down()
    gone(kube, deployed.way.app, deployed.way.data, seconds=SECONDS)
    assert helm("list", "--all-namespaces", "--short", "--filter=^outhaul$", f"--namespace={deployed.way.app}") == ""
