"""The chart installed by helm on others' broker and databases: orders become waybills, upgrades lose nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import yaml

from chart_support import render
from cluster.kube import Kube
from cluster.operators import helm, merged
from cluster.shop import Shop
from letter_support import connected
from support import poll

ORDER = {"customer": "Ada", "lines": [{"sku": "kettle", "quantity": 2, "unit_price_cents": 1999}]}


def _everything(shop: Shop) -> dict[str, Any]:
    """Each switch on that a cluster can bear, and the policies closed to all but whom they are for."""
    named = {
        name: {"peers": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}]}
        for name, namespace in (
            ("dns", "kube-system"),
            ("database", shop.servers.namespace),
            ("broker", shop.servers.namespace),
            ("clients", "kube-system"),
            ("metrics", "kube-system"),
        )
    }
    return {
        "functions": {"order": {"autoscaling": {"enabled": True, "minReplicas": 1, "maxReplicas": 2}}},
        "keda": {"enabled": True, "virtualHost": shop.broker.vhost, "pollingInterval": 2, "cooldownPeriod": 18},
        "alerts": {"webhookUrl": "http://alerts.invalid"},
        "networkPolicies": named,
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "podAnnotations": {"team": "shop"},
    }


def _place(http: httpx.Client, number: int) -> str:
    """One order, asked for again by its key until it is taken."""

    def placed() -> str | None:
        try:
            answer = http.post("/orders", json=ORDER, headers={"Idempotency-Key": f"order-{number}"})
        except httpx.TransportError:
            return None
        return str(answer.json()["order_id"]) if answer.status_code == 201 else None

    order_id = poll(placed, seconds=60, what=f"order {number}")
    assert order_id is not None
    return order_id


def _orders_during(upgrade: Callable[[], object], shop: Shop, *, first: int) -> int:
    """Place orders until after the upgrade; how many. A port-forward ends with its pod: then they come after it."""
    over = threading.Event()

    def place() -> int:
        with shop.http("order", 8080) as http:
            number = first
            while not over.is_set() or number < first + 20:
                _place(http, number)
                number += 1
        return number - first

    with ThreadPoolExecutor(1) as pool:
        placing = pool.submit(place) if shop.servers.direct else None
        try:
            upgrade()
        finally:
            over.set()
        return (placing or pool.submit(place)).result(120)


def _settled(shop: Shop, orders: int) -> None:
    """Until each order has exactly one waybill, and nothing waits to be sent."""

    def whole() -> bool:
        made = [order for (order,) in shop.rows("waybill", "SELECT order_id FROM waybills")]
        assert len(made) == len(set(made))
        return len(made) == orders and not shop.rows("order", "SELECT FROM outbox")

    poll(whole, seconds=90, what=f"{orders} waybills")
    placed = {order for (order,) in shop.rows("order", "SELECT order_id FROM orders")}
    assert placed == {order for (order,) in shop.rows("waybill", "SELECT order_id FROM waybills")}


@pytest.mark.timeout(900)
def test_it_installs_upgrades_and_goes_and_no_order_is_lost(shop: Shop, keda: None) -> None:
    everything = _everything(shop)
    said = shop.upgrade(everything)
    assert f"kubectl -n {shop.namespace} port-forward service/outhaul-order 8080:8080" in said
    assert f"helm test outhaul -n {shop.namespace}" in said
    assert "KEDA does not scale" not in said
    first = shop.jobs()
    assert {name.rpartition("-")[0] for name in first} == {
        "outhaul-schema-order",
        "outhaul-schema-waybill",
        "outhaul-topology",
    }
    with shop.http("order", 8080) as http:
        for number in range(20):
            _place(http, number)
        _settled(shop, 20)
        assert "Phase:          Succeeded" in helm("test", "outhaul", "--namespace", shop.namespace)

        shop.upgrade(everything)
        assert shop.jobs() == first, "an upgrade that changes nothing runs nothing"

        orders = 20 + _orders_during(
            lambda: shop.upgrade(
                merged(
                    everything,
                    {
                        "functions": {"order": {"settings": {"OUTHAUL_SENDER_LEASE": "70s"}}},
                        "log": {"level": "warning"},
                    },
                )
            ),
            shop,
            first=20,
        )
        assert shop.jobs() == first
        _settled(shop, orders)
        with connected(shop.broker) as queues:
            assert queues.depth("outhaul.waybill.dlq") == 0

        shop.upgrade(merged(everything, {"topology": {"backoffLimit": 13, "nodesTimeout": "6m"}}))
        newer = shop.jobs()
        assert {name.rpartition("-")[0] for name in newer.keys() - first.keys()} == {"outhaul-topology"}
        assert len(newer) == 3

    kinds = "deployments,jobs,cronjobs,services,serviceaccounts,roles,rolebindings,networkpolicies,configmaps,pods"
    kinds += ",horizontalpodautoscalers,poddisruptionbudgets,scaledobjects,triggerauthentications"
    # Made where the cluster knows them.
    known = {"podmonitors", "prometheusrules"} & _monitoring(shop.kube)
    kinds = ",".join([kinds, *known])
    ours = ("--namespace", shop.namespace, "--selector=app.kubernetes.io/instance=outhaul", "--output=name")
    made = shop.kube.kubectl("get", kinds, *ours)
    assert {f"{name.removesuffix('s')}.monitoring.coreos.com/outhaul" for name in known} <= set(made.split())
    helm("uninstall", "outhaul", "--namespace", shop.namespace, "--wait")
    # The CronJob's Jobs go with it, a little later.
    poll(lambda: not shop.kube.kubectl("get", kinds, *ours), seconds=60, what="nothing left")


def _monitoring(kube: Kube) -> set[str]:
    """What the Prometheus operator defines, where it was installed."""
    served = kube.path("/apis/monitoring.coreos.com/v1") or {"resources": ()}
    return {each["name"] for each in served["resources"]}


@pytest.mark.timeout(600)
def test_what_somebody_changed_by_hand_is_told_and_put_back(shop: Shop) -> None:
    """First no CronJob runs: it is the operator that sees it. Then the CronJob does what it is for."""
    shop.upgrade({"topology": {"schedule": ""}})
    stage = shop.stage()
    everywhere = {
        "brokerSecretRef": {"name": "operator-broker"},
        "topologyRef": {"name": "outhaul-topology"},
        "interval": "5s",
    }
    stage.apply("Outbox", "orders", {**everywhere, "databaseSecretRef": {"name": "order-operator"}})
    consumed = {"consumer": "waybill", "queue": "outhaul.waybill"}
    stage.apply("Inbox", "waybills", {**everywhere, **consumed, "databaseSecretRef": {"name": "waybill-operator"}})
    both = (("outbox", "orders"), ("inbox", "waybills"))
    for kind, name in both:
        stage.says(kind, name, "TopologyInSync", "True")
    with httpx.Client(base_url=shop.broker.management_url, timeout=30, trust_env=False) as api:
        policies = f"/api/policies/{quote(shop.broker.vhost, safe='')}"
        ours, theirs = f"{policies}/outhaul.waybill", f"{policies}/theirs"
        assert api.get(ours).json()["definition"]["max-length"] == 1_000_000
        changed = {"pattern": "^outhaul\\.waybill$", "definition": {"max-length": 5}, "priority": 50}
        api.put(ours, json=changed).raise_for_status()
        for kind, name in both:
            stage.says(kind, name, "TopologyInSync", "False", "outhaul\\.waybill.*max-length")
        shop.upgrade({"topology": {"schedule": "* * * * *"}})
        for kind, name in both:
            stage.says(kind, name, "TopologyInSync", "True", seconds=150)
        assert api.get(ours).json()["definition"]["max-length"] == 1_000_000

        # Somebody else's is theirs to take away.
        api.put(theirs, json={**changed, "pattern": "^outhaul", "priority": 60}).raise_for_status()
        for kind, name in both:
            stage.says(kind, name, "TopologyInSync", "False", "policy theirs")
        api.delete(theirs).raise_for_status()
        for kind, name in both:
            stage.says(kind, name, "TopologyInSync", "True")


def test_every_object_is_what_the_api_server_takes(kube: Kube, crds: None, namespace: str) -> None:
    """Every switch on, by a server-side dry run: fields that it does not know are errors."""
    installed = kube.kubectl("get", "crds", "--output=name")
    everything = {
        "crds": {"install": False},
        "keda": {"enabled": "scaledobjects.keda.sh" in installed, "caSecret": "ca"},
        "monitoring": {
            "podMonitor": {"enabled": "podmonitors.monitoring.coreos.com" in installed},
            "prometheusRule": {"enabled": "prometheusrules.monitoring.coreos.com" in installed},
        },
        "functions": {"order": {"autoscaling": {"enabled": True}}},
        "alerts": {"webhookUrl": "http://alerts"},
        "tls": {part: {"caSecret": {"name": "ca"}, "clientSecret": "own"} for part in ("broker", "database")},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "priorityClassName": "system-cluster-critical",
    }
    documents = render(everything, namespace=namespace)
    said = kube.kubectl(
        "apply",
        "--server-side",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
        stdin=yaml.safe_dump_all(documents),
    )
    assert len(said.splitlines()) == len(documents)
    assert "Warning" not in said
