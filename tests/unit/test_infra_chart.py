"""The chart, rendered with what the Pulumi program tells it in each mode: the one finds what the other makes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import pytest
import yaml

from chart_support import CHART, KEDA, POD_MONITOR, PROMETHEUS_RULE, helm
from infra_graph import Graph, graph_of, settings
from infra_modes import EVERY
from outhaul.errors import ConfigurationError
from outhaul_infra.setting_fields import camel, setting_of
from outhaul_infra.settings import SECTIONS

pytestmark = pytest.mark.needs("helm")


def rendered(graph: Graph, *, apis: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The chart's manifests with the values of the graph, in a cluster that serves these besides its own."""
    planned = graph.resource("outhaul").inputs
    has = [f"--api-versions={api}" for api in apis]
    text = helm(
        "template", "outhaul", str(CHART), f"--namespace={planned['namespace']}", *has, "--values=-",
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


def bounds() -> Iterator[tuple[str, str, int]]:
    """Section, setting and the least and the most of every whole number."""
    for section, kind in SECTIONS:
        for each in fields(kind):
            found = re.fullmatch(r"whole number, (\d+) to (\d+)", setting_of(each.metadata).form)
            for bound in found.groups() if found else ():
                yield section, camel(each.name), int(bound)


@pytest.mark.parametrize(("section", "name", "bound"), tuple(bounds()))
def test_a_bound_of_a_setting_is_refused_by_the_stack_or_taken_by_the_chart(
    section: str, name: str, bound: int
) -> None:
    """The chart would name a value that is no setting of the stack."""
    roomy: dict[str, Any] = {"postgres": {"maxConnections": 10_000}, "keda": {"enabled": True}}
    roomy[section] = roomy.get(section, {}) | {name: bound}
    with contextlib.suppress(ConfigurationError):  # refused by the stack, in its own words
        rendered(graph_of(settings(**roomy)))


@pytest.mark.parametrize("monitors", [False, True])
def test_a_plan_is_the_same_wherever_it_is_made(monitors: bool) -> None:
    """A preview away from the cluster knows nothing of what the cluster serves."""
    graph = graph_of(settings(chart={"monitors": monitors}))
    everything = rendered(graph, apis=(KEDA, POD_MONITOR, PROMETHEUS_RULE))
    assert rendered(graph) == everything
    kinds = {each["kind"] for each in everything}
    assert ({"PodMonitor", "PrometheusRule"} <= kinds) is monitors


def test_the_order_function_is_scaled_between_its_two_settings() -> None:
    made = rendered(graph_of(settings(order={"maxReplicas": 4})))
    [scaler] = [each["spec"] for each in made if each["kind"] == "HorizontalPodAutoscaler"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 4)
    assert not [each for each in rendered(graph_of(settings())) if each["kind"] == "HorizontalPodAutoscaler"]
