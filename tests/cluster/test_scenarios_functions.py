"""The order function beside the operator: what it recorded is sent though it is gone."""

from __future__ import annotations

import httpx

from cluster.operators import install
from cluster.stage import EXCHANGE, QUEUE, ROUTING_KEY, SECONDS, Stage
from conftest import missing
from letter_support import connected
from support import poll

ORDERS = 100
LIVING_SENDERS = "SELECT name FROM senders WHERE seen_at > clock_timestamp() - interval '15 s'"
ORDER = {"customer": "north", "lines": [{"sku": "kettle", "quantity": 1, "unit_price_cents": 1999}]}


def test_what_a_function_recorded_is_sent_after_it_was_killed_and_scaled_to_zero(lone_stage: Stage) -> None:
    kube, namespace = lone_stage.kube, lone_stage.namespace
    if not lone_stage.servers.direct:
        missing("a way from this machine to the cluster's addresses")
    for name, entries in {
        "order-database": {"url": lone_stage.order},
        "order-broker": lone_stage.broker_entries(),
    }.items():
        document = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": entries}
        kube.apply(document, namespace=namespace)
    with connected(lone_stage.broker) as shop:
        # Orders are taken and nothing can be sent.
        shop.channel.queue_unbind(QUEUE, EXCHANGE, ROUTING_KEY)
        install(kube, namespace, functions={"enabled": True, "order": {"replicas": 1}, "waybill": {"enabled": False}})
        service = kube.read("services", namespace, "outhaul-order")
        assert service is not None
        url = f"http://{service['spec']['clusterIP']}:8080"
        with httpx.Client(base_url=url, timeout=SECONDS, trust_env=False) as client:
            for _ in range(ORDERS):
                assert client.post("/orders", json=ORDER).status_code == 201
        assert lone_stage.unsent() == ORDERS
        kube.kubectl("scale", "deployment/outhaul-order", "--replicas=0", "--namespace", namespace)
        kube.kubectl(
            "delete",
            "pods",
            "--selector=app.kubernetes.io/component=order",
            "--force",
            "--grace-period=0",
            "--namespace",
            namespace,
        )
        # Its container outlives the pod's object for a moment, and would send by itself what it can.
        poll(lambda: not lone_stage.query(lone_stage.order, LIVING_SENDERS), seconds=90, what="no living sender")
        lone_stage.age()
        outbox = lone_stage.outbox()
        lone_stage.says("outbox", outbox, "Routable", "False", f"no queue bound for {ROUTING_KEY}")
        shop.channel.queue_bind(QUEUE, EXCHANGE, ROUTING_KEY)
    lone_stage.shows("outbox", outbox, ready="True", pending="0", stuck="0")
    lone_stage.tells(outbox, "ResendStarted: .*sends nothing|ResendStarted: .*no sender is alive")
    assert lone_stage.depth() == ORDERS
    deployment = kube.read("deployments", namespace, "outhaul-order")
    assert deployment is not None
    assert deployment["spec"]["replicas"] == 0
