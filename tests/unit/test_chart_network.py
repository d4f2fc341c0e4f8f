"""The arrows that the chart's network policies draw, as data."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

from chart_support import KEDA, ROOT, Document, of_kind, render

pytestmark = pytest.mark.needs("helm")
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
NAMED = {
    "alerts": {"webhookUrl": "http://alerts"},
    "networkPolicies": {
        part: {"peers": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": part}}}]}
        for part in ("dns", "database", "broker", "webhook", "clients", "metrics")
    },
}


def test_the_policies_draw_exactly_the_arrows_that_are_needed() -> None:
    assert arrows(render(NAMED)) == {
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


def test_the_test_pod_reaches_whom_it_asks_and_nobody_else() -> None:
    """A function that KEDA may have scaled to zero is not asked, and that is said."""
    documents = render({**NAMED, "keda": {"enabled": True}})
    found = arrows(documents)
    assert found["test"]["egress"] == DNS | to("outhaul", 8080, 8082)
    assert found["waybill"]["ingress"] == to("clients", 8081) | to("metrics", 8081)
    assert asked(documents) == ["order:8080", "operator:8082"]
    assert "waybill: not asked" in asking(documents)["command"][2]

    always_one = render({**NAMED, "keda": {"enabled": True, "minReplicas": 1}})
    assert asked(always_one) == asked(render(NAMED)) == ["order:8080", "waybill:8081", "operator:8082"]
    assert arrows(always_one) == arrows(render(NAMED))
    assert "not asked" not in asking(always_one)["command"][2]

    nobody = render({**NAMED, "functions": {"enabled": False}, "operator": {"enabled": False}})
    assert (asked(nobody), arrows(nobody)["test"]["egress"]) == ([], DNS)


def asking(documents: list[Document]) -> Document:
    [pod] = of_kind(documents, "Pod").values()
    [container] = pod["spec"]["containers"]
    return dict(container)


def asked(documents: list[Document]) -> list[str]:
    """The Services it asks, which there are, and their ports."""
    urls = [urlsplit(url) for url in asking(documents)["command"][3:]]
    services = of_kind(documents, "Service")
    for url in urls:
        assert url.path == "/readyz"
        assert url.port in {port["port"] for port in services[str(url.hostname)]["spec"]["ports"]}
    return [f"{str(url.hostname).removeprefix('outhaul-')}:{url.port}" for url in urls]


def test_the_chart_page_shows_these_arrows_and_no_others() -> None:
    page = (ROOT / "docs" / "chart.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", page.partition("## Who may talk to whom")[2], re.MULTILINE)
    shown = {(each, other) for left, right in rows[1:] for each in left.split(", ") for other in right.split(", ")}
    assert shown == told(arrows(render(NAMED)))


def told(found: dict[str, dict[str, set[Arrow]]]) -> set[Arrow]:
    """Who goes where, in the page's words; names are resolved by all."""
    words = {"job": "Jobs of the operator", "topology": "topology Job", "test": "test pod", "webhook": "alert webhook"}
    words |= {"schema-order": "schema Jobs", "schema-waybill": "schema Jobs", "anybody": "API server"}
    drawn = set()
    for part, directions in found.items():
        for peer, port in directions["ingress"]:
            drawn.add((words.get(peer, peer), f"{part} {port.removeprefix('TCP ')}"))
        for peer, port in directions["egress"]:
            managed = (peer, port) in MANAGEMENT
            # Where the test pod may go is told by those it may come to.
            if peer not in {"dns", "outhaul"}:
                drawn.add((words.get(part, part), "management API" if managed else words.get(peer, peer)))
    return drawn


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
