"""What the network lets through: the data's policies and the chart's, against the table of the architecture page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from chart_support import CHART, helm
from infra_graph import ROOT, Graph, graph_of, settings
from infra_modes import OPERATORS
from outhaul_operator.jobs import MANAGED_BY

pytestmark = pytest.mark.needs("helm")
# Everything that is off by default and has an arrow.
ALL = {
    "namespaces": {"monitoring": "monitoring"},
    "chart": {"values": {"alerts": {"webhookUrl": "http://alerts.example.com"}}},
}
TLS_PORTS = {5672: 5671, 15672: 15671}
NAME, COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/component"
Arrow = tuple[str, str, int]


@dataclass(frozen=True)
class Pod:
    """A pod as policies see it."""

    name: str
    namespace: str
    labels: Mapping[str, str]


# Nobody's, in every place from where somebody could try.
STRANGERS = [
    Pod(f"a stranger in {namespace}", namespace, {NAME: "another"})
    for namespace in ("outhaul", "outhaul-data", "default")
]


def chart_of(graph: Graph) -> list[dict[str, Any]]:
    """The chart with the values that the stack gives it."""
    planned = graph.resource("outhaul").inputs
    text = helm(
        "template", "outhaul", str(CHART), f"--namespace={planned['namespace']}", "--values=-",
        stdin=yaml.safe_dump(planned["values"]),
    )  # fmt: skip
    return [each for each in yaml.safe_load_all(text) if each]


def pods_of(manifests: list[dict[str, Any]]) -> Iterator[Pod]:
    """The pods that these make, the operator's Jobs, and who else comes."""
    for each in manifests:
        if each["kind"] in {"Deployment", "StatefulSet", "Job", "CronJob"}:
            labels = each["spec"].get("jobTemplate", each)["spec"]["template"]["metadata"]["labels"]
            yield Pod(labels.get(COMPONENT, labels[NAME]), each["metadata"]["namespace"], labels)
    for run in ("resend", "redrive"):
        yield Pod(run, "outhaul", MANAGED_BY | {NAME: "outhaul", COMPONENT: run})
    yield Pod("keda", "keda", {NAME: "keda-operator"})
    yield Pod("monitoring", "monitoring", {NAME: "prometheus"})
    yield from STRANGERS


def is_meant(peer: Mapping[str, Any], pod: Pod, *, here: str) -> bool:
    """Whether a policy in the namespace ``here`` means that pod by that peer."""
    if "namespaceSelector" in peer:
        [(key, namespace)] = peer["namespaceSelector"]["matchLabels"].items()
        assert key == "kubernetes.io/metadata.name"
    else:
        namespace = here
    selector = peer.get("podSelector", {})
    among = all(pod.labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", ()))
    return pod.namespace == namespace and among and selector.get("matchLabels", {}).items() <= pod.labels.items()


def arrows(graph: Graph) -> tuple[set[Arrow], set[Arrow]]:
    """What the policies of those who are called let in, and what those of callers let out, as (from, to, port)."""
    manifests = [*graph.objects(), *chart_of(graph)]
    pods = list(pods_of(manifests))
    let_in: set[Arrow] = set()
    let_out: set[Arrow] = set()
    for policy in (each for each in manifests if each["kind"] == "NetworkPolicy"):
        here, spec = policy["metadata"]["namespace"], policy["spec"]
        assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
        chosen = [pod.name for pod in pods if is_meant({"podSelector": spec["podSelector"]}, pod, here=here)]
        assert chosen, policy["metadata"]["name"]
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(direction) or ():
                others = [pod.name for pod in pods for peer in rule.get(side, ()) if is_meant(peer, pod, here=here)]
                for port in rule["ports"]:
                    for one in chosen:
                        for other in others if side in rule else ["anybody"]:
                            arrow = (other, one) if side == "from" else (one, other)
                            (let_in if side == "from" else let_out).add((*arrow, port["port"]))
    return let_in, let_out


def drawn() -> set[Arrow]:
    """The page's table."""
    text = (
        (ROOT / "docs/deployment-architecture.md")
        .read_text()
        .partition("## Who may call whom")[2]
        .partition("\n## ")[0]
    )
    rows = re.findall(r"^\| (`.+`) \| (`.+`) \| ([0-9, ]+) \|", text, re.MULTILINE)
    return {
        (caller, called, int(port))
        for callers, whom, ports in rows
        for caller in re.findall("`([^`]+)`", callers)
        for called in re.findall("`([^`]+)`", whom)
        for port in ports.split(", ")
    }


@pytest.mark.parametrize("tls", [False, True])
def test_the_policies_let_through_exactly_the_arrows_of_the_page(tls: bool) -> None:
    given = {"tls": {"enabled": True, "issuer": "ca"}} if tls else {}
    let_in, let_out = arrows(graph_of(settings(**ALL, **given)))
    page = {(one, other, TLS_PORTS.get(port, port) if tls else port) for one, other, port in drawn()}
    called = {"order", "waybill", "operator", "outhaul-rabbitmq", "outhaul-postgres"}
    outside = {"anybody", "keda", "monitoring"}
    assert let_in == {arrow for arrow in page if arrow[1] in called}
    assert let_out == {arrow for arrow in page if arrow[0] not in outside}


def test_with_the_servers_operators_callers_are_let_out_to_the_pods_these_make() -> None:
    graph = graph_of(settings(**OPERATORS))
    peers = graph.resource("outhaul").inputs["values"]["networkPolicies"]
    made = {
        "broker": Pod("rabbitmq", "outhaul-data", {NAME: "outhaul-rabbitmq", "app.kubernetes.io/part-of": "rabbitmq"}),
        "database": Pod(
            "postgres", "outhaul-data", {"cnpg.io/cluster": "outhaul-postgres", "cnpg.io/podRole": "instance"}
        ),
    }
    for part, pod in made.items():
        [peer] = peers[part]["peers"]
        assert is_meant(peer, pod, here="outhaul")
        assert not any(is_meant(peer, stranger, here="outhaul") for stranger in STRANGERS)
