"""Who sets the replicas: KEDA those of the waybill function, an autoscaler those of the order function."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx
import psycopg
import pytest

from cluster.operators import IMAGE
from cluster.shop import Shop
from letter_support import connected
from outhaul import Message, Outbox
from support import poll

BURST = 50_000
PREFETCH = 50
KEDA = {
    "enabled": True,
    "maxReplicas": 3,
    "messagesPerReplica": 1000,
    "pollingInterval": 2,
    "cooldownPeriod": 18,
    "scaleDownStabilizationSeconds": 0,
}
# Few messages a transaction, so that the backlog lasts long enough to be seen.
SLOWLY = {"OUTHAUL_CONSUMER_BATCH_SIZE": "2", "OUTHAUL_CONSUMER_PREFETCH": str(PREFETCH)}
FRONT = "management"
FORWARD = """
import asyncio, sys

async def pass_on(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()

async def serve(reader, writer):
    theirs, ours = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]))
    await asyncio.gather(pass_on(reader, ours), pass_on(theirs, writer), return_exceptions=True)

async def main():
    async with await asyncio.start_server(serve, "", 15672) as server:
        await server.serve_forever()

asyncio.run(main())
"""


@pytest.mark.timeout(900)
def test_consumers_come_with_the_backlog_and_go_with_it(
    shop: Shop, keda: None, record_property: Callable[[str, object], None]
) -> None:
    """From none to several and back to none; two of three are taken away in the middle of it.

    What docs/chart.md quotes is in the report: ``pytest -o junit_family=xunit1 --junitxml=report.xml``.
    """
    shop.upgrade(_values(shop))
    poll(lambda: _replicas(shop, "waybill") == 0, seconds=120, what="no consumer while nothing waits")
    _record(shop, BURST)
    began = time.monotonic()

    def note(what: str, value: object) -> None:
        record_property(what, value)
        record_property(f"{what}: seconds", round(time.monotonic() - began, 1))

    running = poll(lambda: _three_run(shop), seconds=180, what="as many consumers as there may be") or set()
    note("consumers at once", len(running))
    _scale(shop, "waybill", 1)
    poll(lambda: len(_pods(shop) & running) <= 1, seconds=60, what="the end of two of them")
    with connected(shop.broker) as queues:
        left = queues.depth("outhaul.waybill")
    assert left > 0, "they went when all was done"
    note("left when two of them had gone", left)

    consumed = "SELECT count(*), count(DISTINCT order_id) FROM waybills"
    poll(lambda: shop.rows("waybill", consumed) == [(BURST, BURST)], seconds=300, what=f"{BURST} waybills")
    note("waybills", BURST)
    poll(lambda: _replicas(shop, "waybill") == 0, seconds=180, what="no consumer when all is done")
    note("consumers in the end", 0)
    assert shop.rows("waybill", "SELECT count(*) FROM inbox") == [(BURST,)]
    assert shop.rows("waybill", "SELECT count(*) FROM deliveries WHERE failed > 0") == [(0,)]
    with connected(shop.broker) as queues:
        assert (queues.depth("outhaul.waybill"), queues.depth("outhaul.waybill.dlq")) == (0, 0)
    # Those that were in the hands of pods that went, and no others: two by force, up to three as the backlog shrank.
    redelivered = _redelivered(shop)
    note("given out again", redelivered)
    assert redelivered <= 5 * PREFETCH


@pytest.mark.timeout(600)
def test_some_run_while_the_broker_does_not_tell_how_much_waits(shop: Shop, keda: None) -> None:
    """Its management API is away, for KEDA alone: what waits then is consumed all the same."""
    _put_in_front_of_the_broker(shop)
    shop.upgrade(_values(shop))
    poll(lambda: _replicas(shop, "waybill") == 0, seconds=120, what="no consumer while nothing waits")
    _scale(shop, FRONT, 0)
    poll(lambda: _replicas(shop, "waybill") == 2, seconds=180, what="the consumers of the fallback")
    assert _condition(shop, "Fallback") == "True"
    _record(shop, 100)
    consumed = "SELECT count(*) FROM waybills"
    poll(lambda: shop.rows("waybill", consumed) == [(100,)], seconds=60, what="100 waybills")
    assert _replicas(shop, "waybill") == 2
    _scale(shop, FRONT, 1)
    poll(lambda: _replicas(shop, "waybill") == 0, seconds=180, what="none again")
    assert _condition(shop, "Fallback") == "False"


@pytest.mark.timeout(400)
def test_an_upgrade_leaves_the_replicas_that_an_autoscaler_set(shop: Shop) -> None:
    """Without metrics of pods it keeps to its bounds, and that is enough to see whose the replicas are.

    Of these an eviction may take one at a time.
    """
    autoscaling = {"enabled": True, "minReplicas": 2, "maxReplicas": 4}
    values: dict[str, Any] = {
        "operator": {"enabled": False},
        "topology": {"enabled": False},
        "functions": {"waybill": {"enabled": False}, "order": {"autoscaling": autoscaling}},
    }
    shop.upgrade(values)
    poll(lambda: _replicas(shop, "order") == 2, seconds=90, what="the least that there may be")
    _scale(shop, "order", 3)
    shop.upgrade({**values, "log": {"level": "warning"}})
    deployment = shop.kube.read("deployments", shop.namespace, "outhaul-order")
    assert deployment is not None
    assert (deployment["spec"]["replicas"], deployment["metadata"]["generation"] > 2) == (3, True)
    poll(lambda: _evictable(shop) == 1, seconds=60, what="a budget that allows an eviction")
    found = shop.kube.all("pods", shop.namespace, labels="app.kubernetes.io/component=order")
    first, second, *_ = (pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"])
    assert shop.kube.evict(first, shop.namespace)
    assert not shop.kube.evict(second, shop.namespace)
    _scale(shop, "order", 1)
    poll(lambda: _replicas(shop, "order") == 2, seconds=90, what="the autoscaler at its work")


def _evictable(shop: Shop) -> int:
    path = f"/apis/policy/v1/namespaces/{shop.namespace}/poddisruptionbudgets/outhaul-order"
    budget = shop.kube.path(path) or {}
    return int(budget.get("status", {}).get("disruptionsAllowed", 0))


def _values(shop: Shop) -> dict[str, Any]:
    return {
        "keda": {**KEDA, "virtualHost": shop.broker.vhost},
        "operator": {"enabled": False},
        "functions": {"waybill": {"settings": SLOWLY}},
    }


def _record(shop: Shop, count: int) -> None:
    with psycopg.connect(shop.databases["order"]) as conn:
        outbox = Outbox(exchange="outhaul.events")
        for begun in range(0, count, 1000):
            outbox.add(conn, *(_message() for _ in range(min(1000, count - begun))))


def _message() -> Message:
    order = str(uuid4())
    lines = [{"sku": "kettle", "quantity": 1, "unit_price_cents": 1999}]
    return Message(
        type="dev.outhaul.order.created.v1",
        routing_key="order.created",
        aggregate_id=order,
        data={"order_id": order, "customer": "Ada", "lines": lines},
    )


def _replicas(shop: Shop, function: str) -> int:
    found = shop.kube.read("deployments", shop.namespace, f"outhaul-{function}")
    assert found is not None
    return int(found["spec"].get("replicas", 1))


def _scale(shop: Shop, function: str, replicas: int) -> None:
    name = function if function == FRONT else f"outhaul-{function}"
    shop.kube.kubectl("scale", f"deployment/{name}", f"--replicas={replicas}", "--namespace", shop.namespace)


def _pods(shop: Shop) -> set[str]:
    """Those of the waybill function that are ready, by uid; one that was told to go still counts while it drains."""
    found = shop.kube.all("pods", shop.namespace, labels="app.kubernetes.io/component=waybill")
    ready = {"type": "Ready", "status": "True"}
    return {
        pod["metadata"]["uid"]
        for pod in found
        if any(ready.items() <= each.items() for each in pod.get("status", {}).get("conditions", ()))
    }


def _three_run(shop: Shop) -> set[str] | None:
    pods = _pods(shop)
    return pods if len(pods) == 3 else None


def _redelivered(shop: Shop) -> int:
    """How often the broker gave a message of the queue out again, by its own count."""
    path = f"/api/queues/{quote(shop.broker.vhost, safe='')}/outhaul.waybill"
    with httpx.Client(base_url=shop.broker.management_url, timeout=30, trust_env=False) as api:
        counted = api.get(path).raise_for_status().json()["message_stats"]
    assert counted["deliver"] >= BURST
    return int(counted.get("redeliver", 0))


def _condition(shop: Shop, type_: str) -> str:
    path = f"/apis/keda.sh/v1alpha1/namespaces/{shop.namespace}/scaledobjects/outhaul-waybill"
    scaled = shop.kube.path(path) or {}
    [found] = [each["status"] for each in scaled.get("status", {}).get("conditions", ()) if each["type"] == type_]
    return str(found)


def _put_in_front_of_the_broker(shop: Shop) -> None:
    """A way to the management API that KEDA alone is told of, so that it can be closed to it alone."""
    inside = urlsplit(shop.servers.inside(shop.broker.management_url))
    labels = {"app": FRONT}
    container = {
        "name": FRONT,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", FORWARD, str(inside.hostname), str(inside.port)],
        "readinessProbe": {"tcpSocket": {"port": 15672}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod = {
        "automountServiceAccountToken": False,
        # It is process 1 of its container, to which SIGTERM means nothing.
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    template = {"metadata": {"labels": labels}, "spec": pod}
    shop.kube.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": FRONT},
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": FRONT},
            "spec": {"selector": labels, "ports": [{"port": 15672}]},
        },
        namespace=shop.namespace,
    )
    shop.secret("keda-broker", {**shop.entries("keda-broker"), "host": f"http://{FRONT}.{shop.namespace}.svc:15672"})
    shop.kube.kubectl("rollout", "status", f"deployment/{FRONT}", "--namespace", shop.namespace)
