"""What the chart refuses, and the arrows that its network policies draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from chart_support import CHART, KEDA, Document, HelmRefused, nested, of_kind, render

pytestmark = pytest.mark.needs("helm")
ON = {"keda": {"enabled": True}}

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
    ("topology.nodes", 0, "want 1"),
    ("topology.schedule", "often", "topology/schedule"),
    ("keda.enabled", "perhaps", "keda/enabled"),
    ("keda.messagesPerReplica", 0, "want 1"),
    ("keda.virtualHost", "", "keda/virtualHost"),
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


def test_every_value_is_described_by_the_schema_and_the_other_way_round() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    free = {"annotations", "labels", "limits", "nodeSelector", "podAnnotations", "requests", "settings", "global"}

    def compare(given: Mapping[str, Any], described: Mapping[str, Any], path: str) -> None:
        known = described["properties"]
        assert set(given) == set(known) - {"global"}, path
        for name, value in given.items():
            if isinstance(value, dict) and name not in free:
                compare(value, known[name], f"{path}.{name}")

    compare(values, schema, "")


Arrow = tuple[str, str]


def arrows(documents: list[Document]) -> dict[str, dict[str, set[Arrow]]]:
    """Each policy as data: who may come in, and what may be gone out to, as (peer, port)."""
    found: dict[str, dict[str, set[Arrow]]] = {}
    for name, policy in of_kind(documents, "NetworkPolicy").items():
        spec = policy["spec"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        found[name.removeprefix("outhaul-")] = {
            direction: {
                (peer_name(peer), f"{port['protocol']} {port['port']}")
                for rule in spec.get(direction, ())
                for peer in rule.get(side, [None])
                for port in rule["ports"]
            }
            for direction, side in (("ingress", "from"), ("egress", "to"))
        }
    return found


def peer_name(peer: Document | None) -> str:
    if peer is None:
        return "anybody"
    selector = peer.get("namespaceSelector") or peer["podSelector"]
    labels = selector["matchLabels"]
    return str(labels.get("kubernetes.io/metadata.name") or labels.get("app.kubernetes.io/component", "outhaul"))


def to(part: str, *ports: int) -> set[Arrow]:
    return {(part, f"TCP {port}") for port in ports}


DNS = {("dns", f"{protocol} {port}") for protocol in ("UDP", "TCP") for port in (53, 5353)}
DATABASE = to("database", 5432)
BROKER = to("broker", 5671, 5672)
MANAGEMENT = to("broker", 15671, 15672)
WEBHOOK = to("webhook", 80, 443, 8080, 9093)
API = to("anybody", 443, 6443)


def test_the_policies_draw_exactly_the_arrows_that_are_needed() -> None:
    parts = ("dns", "database", "broker", "webhook", "clients", "metrics")
    peers = {
        part: {"peers": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": part}}}]}
        for part in parts
    }
    documents = render({"networkPolicies": peers, "alerts": {"webhookUrl": "http://alerts"}})
    assert arrows(documents) == {
        "order": {
            "ingress": to("clients", 8080) | to("metrics", 8080) | to("test", 8080),
            "egress": DNS | DATABASE | BROKER | WEBHOOK,
        },
        "waybill": {
            "ingress": to("clients", 8081) | to("metrics", 8081) | to("test", 8081),
            "egress": DNS | DATABASE | BROKER | WEBHOOK,
        },
        "operator": {
            "ingress": to("metrics", 8082) | to("test", 8082),
            "egress": DNS | DATABASE | BROKER | MANAGEMENT | API | WEBHOOK,
        },
        "job": {"ingress": set(), "egress": DNS | DATABASE | BROKER | WEBHOOK},
        "schema-order": {"ingress": set(), "egress": DNS | DATABASE},
        "schema-waybill": {"ingress": set(), "egress": DNS | DATABASE},
        "topology": {"ingress": set(), "egress": DNS | BROKER | MANAGEMENT},
        "test": {"ingress": set(), "egress": DNS | to("outhaul", 8080, 8081, 8082)},
    }


def test_without_peers_the_ports_alone_bound_the_arrows() -> None:
    found = arrows(render())
    assert found["order"]["ingress"] == to("anybody", 8080)
    assert found["waybill"]["egress"] >= to("anybody", 5432, 5671, 5672)
    assert not found["order"]["egress"] & to("anybody", 443, 9093), "no webhook is set"


def test_every_pod_of_the_release_is_under_a_policy() -> None:
    documents = render(apis=(KEDA,))
    selectors = [each["spec"]["podSelector"]["matchLabels"] for each in of_kind(documents, "NetworkPolicy").values()]
    pods = [
        each["spec"].get("jobTemplate", each)["spec"]["template"]["metadata"]["labels"]
        for each in documents
        if each["kind"] in {"Deployment", "Job", "CronJob"}
    ]
    pods += [each["metadata"]["labels"] for each in documents if each["kind"] == "Pod"]
    assert len(pods) == 8
    for labels in pods:
        assert len([selector for selector in selectors if selector.items() <= labels.items()]) == 1, labels


def test_the_operators_jobs_are_under_a_policy_wherever_it_watches() -> None:
    documents = render({"operator": {"namespaces": ["b", "c"]}})
    jobs = [each for each in documents if each["kind"] == "NetworkPolicy" and each["metadata"]["name"].endswith("-job")]
    assert [each["metadata"]["namespace"] for each in jobs] == ["b", "c"]
    assert {str(each["spec"]["podSelector"]["matchLabels"]) for each in jobs} == {
        str({"app.kubernetes.io/managed-by": "outhaul-operator"})
    }
