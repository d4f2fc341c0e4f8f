"""What the chart refuses."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import pytest
import yaml

from chart_support import CHART, Document, HelmRefused, nested, render

pytestmark = pytest.mark.needs("helm")
ON = {"keda": {"enabled": True}}
# What the schema leaves to whoever writes it; and the values that are a text of any form.
FREE = {"annotations", "labels", "limits", "nodeSelector", "podAnnotations", "requests", "settings", "global"}
ANY_TEXT = {("schema", "rerun"), ("topology", "rerun")}

REFUSED: list[tuple[str, object, str]] = [
    # Names that are not known, at every depth
    ("replicas", 3, "'replicas' not allowed"),
    ("operator.image", "x", "'image' not allowed"),
    ("functions.order.replica", 3, "'replica' not allowed"),
    ("functions.shipping", {}, "'shipping' not allowed"),
    ("functions.order.databaseSecret.namespace", "other", "'namespace' not allowed"),
    ("networkPolicies.broker.peers", [{"selector": {}}], "'selector' not allowed"),
    ("networkPolicies.broker.peers", [{}], "minProperties"),
    ("tls.broker.ca", "x", "'ca' not allowed"),
    # Values that make no sense
    ("fullnameOverride", "Out_Haul", "fullnameOverride"),
    ("crds.keep", "yes", "want boolean"),
    ("images.pullPolicy", "Sometimes", "pullPolicy"),
    ("images.order.tag", "a b", "images/order/tag"),
    ("images.order.digest", "sha256:abc", "images/order/digest"),
    ("images.order.repository", "UPPER", "images/order/repository"),
    ("images.registry", "https://registry", "images/registry"),
    ("security.runAsUser", 0, "want 1"),
    ("log.level", "chatty", "log/level"),
    ("alerts.webhookUrl", "alerts:9093", "alerts/webhookUrl"),
    ("operator.namespaces", ["Shop"], "operator/namespaces/0"),
    ("operator.namespaces", ["a", "a"], "equal"),
    ("operator.jobServiceAccount", "", "operator/jobServiceAccount"),
    ("operator.maxJobs", 0, "want 1"),
    ("operator.lookTimeout", 5, "want string"),
    ("operator.lookTimeout", "five", "operator/lookTimeout"),
    ("operator.settings", {"LOG": "x"}, "operator/settings"),
    ("operator.settings", {"OUTHAUL_LOG": 1}, "want string"),
    ("functions.order.replicas", -1, "want 0"),
    ("functions.order.databasePoolSize", 0, "want 1"),
    ("functions.order.databaseSecret.name", "", "functions/order/databaseSecret/name"),
    ("functions.order.service.port", 70000, "want 65,535"),
    ("functions.order.service.type", "ExternalName", "functions/order/service/type"),
    ("functions.order.maxUnavailable", "half", "functions/order/maxUnavailable"),
    ("functions.order.resources.limits.memory", "lots", "functions/order/resources/limits/memory"),
    ("functions.order.autoscaling.targetCPUPercent", 101, "want 100"),
    ("schema.order.backoffLimit", 1, "'backoffLimit' not allowed"),
    ("schema.order.functionRole", "  ", "schema/order/functionRole"),
    ("schema.waybill.operatorRole", "role\nname", "schema/waybill/operatorRole"),
    ("topology.nodes", 0, "want 1"),
    ("topology.schedule", "often", "topology/schedule"),
    ("keda.enabled", "perhaps", "keda/enabled"),
    ("keda.messagesPerReplica", 0, "want 1"),
    ("keda.virtualHost", "", "keda/virtualHost"),
    ("keda.virtualHost", "/\n", "keda/virtualHost"),
    ("keda.queue", " outhaul.waybill", "keda/queue"),
    ("monitoring.podMonitor.interval", "15", "monitoring/podMonitor/interval"),
    ("networkPolicies.dns.ports", [], "minItems"),
    ("networkPolicies.dns.ports", [0], "want 1"),
]


@pytest.mark.parametrize(("path", "value", "says"), REFUSED, ids=[f"{path}={value}" for path, value, _ in REFUSED])
def test_a_value_that_makes_no_sense_is_refused_by_name(path: str, value: object, says: str) -> None:
    with pytest.raises(HelmRefused) as caught:
        render(nested(path, value))
    assert says in str(caught.value)
    assert path.split(".", maxsplit=1)[0] in str(caught.value) or "replicas" in path


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"alerts": {"webhookUrl": "http://a", "webhookSecret": {"name": "b"}}},
            "are both set: leave one of them empty",
        ),
        ({"operator": {"clusterWide": True, "namespaces": ["a"]}}, "leave operator.namespaces empty"),
        (nested("functions.order.drainSeconds", 26), "at least 5 below terminationGracePeriodSeconds 30"),
        (nested("functions.waybill.drainSeconds", 26), "functions.waybill.drainSeconds 26"),
        (
            nested("functions.order.settings", {"OUTHAUL_HTTP_PORT": "1"}),
            "functions.order.settings may not set OUTHAUL_HTTP_PORT",
        ),
        (nested("operator.settings", {"OUTHAUL_OPERATOR_IMAGE": "x"}), "may not set OUTHAUL_OPERATOR_IMAGE"),
        (
            {"functions": {"order": {"replicas": 4, "databaseConnections": 39}}},
            "functions.order.replicas 4 pods of databasePoolSize 8 + 2 need 40 database connections",
        ),
        (
            {"functions": {"order": {"autoscaling": {"enabled": True}, "databaseConnections": 59}}},
            "functions.order.autoscaling.maxReplicas 6 pods",
        ),
        (
            {**ON, "functions": {"waybill": {"databaseConnections": 59}}},
            "keda.maxReplicas 10 pods of databasePoolSize 4 + 2 need 60 database connections",
        ),
        (nested("functions.order.autoscaling", {"minReplicas": 7}), "minReplicas is above maxReplicas"),
        ({"keda": {"enabled": True, "minReplicas": 11}}, "keda.minReplicas 11 is above keda.maxReplicas 10"),
        ({"keda": {"enabled": True, "fallbackReplicas": 11}}, "keda.fallbackReplicas 11 is above"),
        ({"keda": {"enabled": True, "cooldownPeriod": 44}}, "a broker that restarts looks like an empty queue"),
    ],
)
def test_values_that_contradict_each_other_are_refused_with_the_way_out(values: Document, says: str) -> None:
    with pytest.raises(HelmRefused) as caught:
        render(values)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"functions": {"order": {"replicas": 4, "databaseConnections": 40}}},
        {**ON, "functions": {"waybill": {"databaseConnections": 60}}},
        {"keda": {"enabled": False, "minReplicas": 11}},
        {"keda": {"enabled": True, "cooldownPeriod": 45}},
        {"functions": {"order": {"drainSeconds": 25}}},
    ],
)
def test_what_just_fits_is_taken(values: Document) -> None:
    assert render(values)


def _values() -> Document:
    return dict(yaml.safe_load((CHART / "values.yaml").read_text()))


def _schema() -> Document:
    return dict(json.loads((CHART / "values.schema.json").read_text()))


def test_every_value_is_described_by_the_schema_and_the_other_way_round() -> None:
    def compare(given: Mapping[str, Any], described: Mapping[str, Any], path: str) -> None:
        known = described["properties"]
        assert set(given) == set(known) - {"global"}, path
        for name, value in given.items():
            if isinstance(value, dict) and name not in FREE:
                compare(value, known[name], f"{path}.{name}")

    compare(_values(), _schema(), "")


def _leaves(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    for name, value in values.items():
        if isinstance(value, dict) and name not in FREE:
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _nonsense(path: tuple[str, ...], value: object) -> list[object]:
    """What cannot stand for such a value, whatever it means."""
    always: list[object] = [{"a": ["b"]}, ["x", ["y"]], 1.5]
    match value:
        case bool():
            return [*always, "yes", "true", 1]
        case int():
            return [*always, -1, 10**12, "1", "many", True]
        case str() if path in ANY_TEXT:
            return [*always, 1, True]
        case "auto":
            return [*always, 1, "yes", "automatic"]
        case str():
            return [*always, 1, True, "  ", "a\nb"]
        case list():
            return [*always, "x", 1]
        case _:
            return [*always, "x", 1]


def test_no_value_takes_what_cannot_stand_for_it() -> None:
    """Helm holds values against the same schema, a second each; so here they are by the hundred."""
    values, schema = _values(), jsonschema.Draft7Validator(_schema())
    schema.validate(values)
    taken = []
    for path, value in _leaves(values):
        for wrong in _nonsense(path, value):
            changed = copy.deepcopy(values)
            parent = changed
            for name in path[:-1]:
                parent = parent[name]
            parent[path[-1]] = wrong
            if schema.is_valid(changed):
                taken.append((".".join(path), wrong))
    assert taken == []
