"""Outhaul itself upon the servers of a `PulumiStage`: the chart as the program plans it, orders and their waybills."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import yaml

from cluster.in_cluster import Servers
from cluster.operators import CHART, helm, merged
from cluster.pulumi_stage import PulumiStage
from infra_graph import ROOT
from support import poll

_RESOURCES = {"Outbox", "Inbox"}
_ORDER = {"customer": "Ada", "lines": [{"sku": "TEA-01", "quantity": 2, "unit_price_cents": 1999}]}


def install(stage: PulumiStage) -> None:
    """The chart with the stack's values, then both resources; nothing is waited for."""
    planned = stage.graph.resource("outhaul").inputs
    assert planned["chart"] == str(ROOT / "helm/outhaul")
    # The definitions are the cluster's, for all tests of the session.
    values = yaml.safe_dump(merged(dict(planned["values"]), {"crds": {"install": False}}))
    helm("upgrade", "--install", "outhaul", str(CHART), f"--namespace={stage.app}", "--values=-", stdin=values)
    stage.kube.apply(*(each for each in stage.graph.objects() if each["kind"] in _RESOURCES))


def uninstall(stage: PulumiStage) -> None:
    """The resources, whose end nobody waits for once the operator is gone."""
    stage.kube.kubectl("delete", "outboxes,inboxes", "--all", "--namespace", stage.app)


def all_is_well(stage: PulumiStage) -> bool:
    """Whether both resources say so."""
    rows = [*stage.kube.table("outboxes", stage.app), *stage.kube.table("inboxes", stage.app)]
    return [row.get("READY") for row in rows] == ["True", "True"]


def place(stage: PulumiStage, ways: Servers, count: int, *, prefix: str = "order") -> set[str]:
    """Orders by the order function's Service; returns their ids."""
    orders = Servers(stage.kube, stage.app, direct=ways.direct)
    host, port = orders.way("outhaul-order", 8080)
    with httpx.Client(base_url=f"http://{host}:{port}", timeout=60, trust_env=False) as client:
        poll(lambda: _is_ready(client), seconds=300, what="the order function")

        def one(number: int) -> str:
            answer = client.post("/orders", json=_ORDER, headers={"Idempotency-Key": f"{prefix}-{number}"})
            assert answer.status_code == 201, answer.text
            return str(answer.json()["order_id"])

        with ThreadPoolExecutor(8) as pool:
            placed = set(pool.map(one, range(count)))
    orders.close()
    assert len(placed) == count
    return placed


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def waybills(stage: PulumiStage) -> set[str]:
    """The orders that have one, as the database says."""
    psql = "psql --username=postgres --dbname=outhaul_waybill --tuples-only --no-align --command"
    return set(stage.in_server(f'{psql} "SELECT order_id FROM waybills"').split())
