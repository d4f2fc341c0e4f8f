"""The chart as `helm template` renders it, away from any cluster."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm" / "outhaul"
KEDA = "keda.sh/v1alpha1"
POD_MONITOR = "monitoring.coreos.com/v1/PodMonitor"
PROMETHEUS_RULE = "monitoring.coreos.com/v1/PrometheusRule"
Document = dict[str, Any]
EVERY_API = (KEDA, POD_MONITOR, PROMETHEUS_RULE)
TLS = {
    part: {"caSecret": {"name": f"{part}-ca", "key": "ca.crt"}, "clientSecret": f"{part}-tls"}
    for part in ("broker", "database")
}
OPERATOR_ALONE = {
    "functions": {"enabled": False},
    "schema": {"enabled": False},
    "topology": {"enabled": False},
    "keda": {"enabled": False},
}
MATRIX: Mapping[str, Document] = {
    "defaults": {},
    "everything": {
        "keda": {"enabled": True, "caSecret": "broker-ca"},
        "monitoring": {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
        "alerts": {"webhookUrl": "http://alerts:9093/hook"},
        "functions": {"order": {"autoscaling": {"enabled": True}}},
        "tls": TLS,
        "images": {"registry": "registry.example.com/team", "pullSecrets": ["registry"], "pullPolicy": "Always"},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "priorityClassName": "high",
        "podAnnotations": {"team": "shop"},
    },
    "operator alone": OPERATOR_ALONE,
    "functions alone": {"operator": {"enabled": False}},
    "order alone": {"functions": {"waybill": {"enabled": False}}},
    "waybill alone": {"functions": {"order": {"enabled": False}}},
    "cluster-wide": {"operator": {"clusterWide": True}},
    "three namespaces": {"operator": {"namespaces": ["shop", "b", "c"]}},
    "a digest": {"images": {"order": {"digest": "sha256:" + "a" * 64}}},
    "the platform's user": {"security": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}},
    "a webhook in a Secret": {"alerts": {"webhookSecret": {"name": "hook"}}},
    "no grants": {"schema": {"order": {"functionRole": "", "operatorRole": ""}}},
    "nothing beside": {
        "networkPolicies": {"enabled": False},
        "monitoring": {"dashboard": {"enabled": False}},
        "tests": {"enabled": False},
        "crds": {"install": False},
        "topology": {"schedule": ""},
    },
    "closed to the world": {
        "networkPolicies": {
            part: {"peers": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": part}}}]}
            for part in ("dns", "database", "broker", "webhook", "clients", "metrics")
        }
    },
}


class HelmRefused(AssertionError):
    """helm ended with an error, and these are its words."""


def helm(*arguments: str, stdin: str = "") -> str:
    ended = subprocess.run(
        ["helm", *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
    )
    if ended.returncode:
        raise HelmRefused(ended.stderr)
    return ended.stdout


def render(
    values: Mapping[str, Any] | None = None,
    *,
    release: str = "outhaul",
    namespace: str = "shop",
    apis: Sequence[str] = (),
) -> list[Document]:
    """The manifests in a release's order. Raises HelmRefused."""
    has = [f"--api-versions={api}" for api in apis]
    text = helm(
        "template",
        release,
        str(CHART),
        "--namespace",
        namespace,
        *has,
        "--values=-",
        stdin=yaml.safe_dump(values or {}),
    )
    return [document for document in yaml.safe_load_all(text) if document]


def nested(path: str, value: object) -> Document:
    """``a.b``, 1 -> ``{"a": {"b": 1}}``."""
    head, _, rest = path.partition(".")
    return {head: nested(rest, value) if rest else value}


def of_kind(documents: Sequence[Document], kind: str) -> dict[str, Document]:
    """Those of one kind, by name."""
    return {document["metadata"]["name"]: document for document in documents if document["kind"] == kind}


def pod_specs(documents: Sequence[Document]) -> Iterator[tuple[str, Document]]:
    """Every pod that the manifests would make, by kind and name."""
    for document in documents:
        where = f"{document['kind']} {document['metadata']['name']}"
        match document["kind"]:
            case "Pod":
                yield where, document["spec"]
            case "Deployment" | "Job":
                yield where, document["spec"]["template"]["spec"]
            case "CronJob":
                yield where, document["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def containers(pod: Document) -> list[Document]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def environment(container: Document) -> dict[str, str]:
    """What a container would be told; an entry of a Secret shows as ``name/key``."""
    told = {}
    for variable in container.get("env", ()):
        ref = variable.get("valueFrom", {}).get("secretKeyRef")
        told[variable["name"]] = f"{ref['name']}/{ref['key']}" if ref else variable["value"]
    return told
