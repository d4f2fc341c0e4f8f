"""The chart, rendered with what the Pulumi program tells it in each mode: the one finds what the other makes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from chart_support import CHART, helm
from infra_graph import Graph, graph_of, settings
from infra_modes import EVERY

pytestmark = pytest.mark.needs("helm")


def rendered(graph: Graph) -> list[dict[str, Any]]:
    """The chart's manifests with the values of the graph."""
    planned = graph.resource("outhaul").inputs
    text = helm(
        "template", "outhaul", str(CHART), f"--namespace={planned['namespace']}", "--values=-",
        stdin=yaml.safe_dump(planned["values"]),
    )  # fmt: skip
    return [each for each in yaml.safe_load_all(text) if each]


def secrets_of(value: Any) -> Iterator[str]:
    """Names of Secrets that pods and triggers take values from."""
    if isinstance(value, dict):
        if isinstance(value.get("secretKeyRef"), dict):
            yield value["secretKeyRef"]["name"]
        if isinstance(value.get("secret"), dict) and "secretName" in value["secret"]:
            yield value["secret"]["secretName"]
        for reference in value.get("secretTargetRef", ()):
            yield reference["name"]
        for each in value.values():
            yield from secrets_of(each)
    elif isinstance(value, list):
        for each in value:
            yield from secrets_of(each)


@pytest.mark.parametrize("name", EVERY)
def test_every_secret_the_chart_needs_is_made_by_the_stack_in_its_namespace(name: str) -> None:
    graph = graph_of(settings(**EVERY[name]))
    namespace = graph.resource("outhaul").inputs["namespace"]
    made = {
        each["metadata"]["name"]
        for each in graph.objects()
        if each["kind"] == "Secret" and each["metadata"]["namespace"] == namespace
    }
    made |= {each["spec"]["secretName"] for each in graph.objects() if each["kind"] == "Certificate"}
    given = EVERY[name].get("tls", {}).get("authoritySecret")
    manifests = rendered(graph)
    made |= {each["metadata"]["name"] for each in manifests if each["kind"] == "Secret"}
    needed = set(secrets_of(manifests))
    assert needed
    assert needed <= made | ({given} if given else set())


def test_the_topology_the_resources_name_is_in_the_chart() -> None:
    graph = graph_of(settings())
    maps = {each["metadata"]["name"] for each in rendered(graph) if each["kind"] == "ConfigMap"}
    for kind, name in (("Outbox", "orders"), ("Inbox", "waybills")):
        assert graph.one(kind, name)["spec"]["topologyRef"]["name"] in maps


def test_the_services_the_outputs_name_are_in_the_chart() -> None:
    graph = graph_of(settings())
    services = {each["metadata"]["name"] for each in rendered(graph) if each["kind"] == "Service"}
    for output in ("orders", "waybills"):
        assert graph.outputs[output].partition("service/")[2].split()[0] in services


def test_what_scales_is_told_who_scales_it() -> None:
    scaled = rendered(graph_of(settings()))
    [consumer] = [
        each for each in scaled if each["kind"] == "Deployment" and each["metadata"]["name"] == "outhaul-waybill"
    ]
    assert "replicas" not in consumer["spec"]
    assert [each["spec"]["maxReplicaCount"] for each in scaled if each["kind"] == "ScaledObject"] == [5]
    fixed = rendered(graph_of(settings(keda={"enabled": False})))
    [consumer] = [
        each for each in fixed if each["kind"] == "Deployment" and each["metadata"]["name"] == "outhaul-waybill"
    ]
    assert consumer["spec"]["replicas"] == 5
    assert not [each for each in fixed if each["kind"] == "ScaledObject"]
