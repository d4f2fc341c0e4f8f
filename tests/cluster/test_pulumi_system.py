"""The whole stack as the Pulumi program plans it: its servers and Secrets, the chart with its values, its resources."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest
import yaml

from cluster.in_cluster import Servers
from cluster.kube import Kube
from cluster.operators import CHART, TAG, helm, merged
from cluster.pulumi_stage import SMALL, PulumiStage, running, ways_to
from infra_graph import ROOT
from support import poll

pytestmark = pytest.mark.timeout(900)
ORDERS = 200
WRITTEN = SMALL | {
    "images": {"tag": TAG},
    "waybill": {"minReplicas": 0, "maxReplicas": 2, "poolSize": 4},
    "order": {"replicas": 1},
    "keda": {"enabled": False},
}


@pytest.fixture(scope="module")
def stage(kube: Kube, crds: None) -> Iterator[PulumiStage]:
    """Servers, chart, Outbox and Inbox."""
    with running(kube, WRITTEN) as made:
        planned = made.graph.resource("outhaul").inputs
        assert planned["chart"] == str(ROOT / "helm/outhaul")
        # The definitions are the cluster's, for all tests of the session.
        values = merged(dict(planned["values"]), {"crds": {"install": False}})
        helm(
            "upgrade",
            "--install",
            "outhaul",
            str(CHART),
            f"--namespace={planned['namespace']}",
            "--values=-",
            stdin=yaml.safe_dump(values),
        )
        kube.apply(*(each for each in made.graph.objects() if each["kind"] in {"Outbox", "Inbox"}))
        yield made
        kube.kubectl("delete", "outboxes,inboxes", "--all", "--namespace", made.app)


@pytest.fixture(scope="module")
def ways(stage: PulumiStage) -> Iterator[Servers]:
    """From this machine to the Services of the servers."""
    with ways_to(stage) as made:
        yield made


def _is_ready(kube: Kube, stage: PulumiStage, plural: str, name: str) -> bool:
    found = kube.read(plural, stage.app, name) or {}
    conditions = {each["type"]: each["status"] for each in found.get("status", {}).get("conditions", [])}
    return conditions.get("Ready") == "True"


def test_both_resources_come_to_say_that_all_is_well(kube: Kube, stage: PulumiStage) -> None:
    for plural, name in (("outboxes", "orders"), ("inboxes", "waybills")):
        poll(lambda p=plural, n=name: _is_ready(kube, stage, p, n), seconds=420, what=f"{name} to be Ready")  # type: ignore[misc]


def test_every_order_becomes_one_waybill(kube: Kube, stage: PulumiStage, ways: Servers) -> None:
    orders = Servers(kube, stage.app, direct=ways.direct)
    host, port = orders.way("outhaul-order", 8080)
    body = {"customer": "Ada", "lines": [{"sku": "TEA-01", "quantity": 2, "unit_price_cents": 1999}]}
    with httpx.Client(base_url=f"http://{host}:{port}", timeout=60) as client:
        poll(lambda: client.get("/readyz").status_code == 200, seconds=300, what="the order function")

        def place(number: int) -> str:
            answer = client.post("/orders", json=body, headers={"Idempotency-Key": f"order-{number}"})
            assert answer.status_code == 201, answer.text
            return str(answer.json()["order_id"])

        with ThreadPoolExecutor(8) as pool:
            placed = list(pool.map(place, range(ORDERS)))
    assert len(set(placed)) == ORDERS

    def made() -> bool:
        with psycopg.connect(stage.url("waybill-database", "url", ways)) as conn:
            return {str(row[0]) for row in conn.execute("SELECT order_id FROM waybills")} == set(placed)

    poll(made, seconds=300, what=f"{ORDERS} waybills")
    orders.close()


def test_no_role_of_a_function_can_do_what_its_owner_does(stage: PulumiStage, ways: Servers) -> None:
    for secret in ("order-database", "outbox-database", "waybill-database", "inbox-database"):
        with psycopg.connect(stage.url(secret, "url", ways), autocommit=True) as conn:
            for statement in (
                "DROP TABLE runs",
                "CREATE TABLE more (a int)",
                "TRUNCATE runs",
                "ALTER TABLE runs ADD a int",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    conn.execute(statement.encode())
