"""Custom resources to try on a real API server: good ones, and every field of theirs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kube import Kube, KubectlFailed

CRDS = Path(__file__).parents[2] / "helm" / "outhaul" / "files" / "crds"
REFS = {"databaseSecretRef": {"name": "a"}, "brokerSecretRef": {"name": "b"}}
Body = dict[str, Any]
GOOD: Mapping[str, Body] = {
    "Outbox": REFS,
    "Inbox": {**REFS, "consumer": "shipping", "queue": "shop.waybill"},
    "Resend": {"outboxRef": {"name": "shop"}, "parked": True},
    "Redrive": {"inboxRef": {"name": "shipping"}},
}
MISSING = object()


def body(kind: str, spec: Mapping[str, Any], name: str = "tried") -> Body:
    return {"apiVersion": "outhaul.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}


def with_value(spec: Body, path: str, value: object) -> Body:
    changed = copy.deepcopy(spec)
    *parents, last = path.split(".")
    at = changed
    for parent in parents:
        at = at.setdefault(parent, {})
    if value is MISSING:
        del at[last]
    else:
        at[last] = value
    return changed


def tried(kube: Kube, namespace: str, document: Body) -> str:
    """What the API server says to it, changing nothing."""
    return kube.kubectl(
        "apply",
        "--dry-run=server",
        "--namespace",
        namespace,
        "--output=yaml",
        "-f",
        "-",
        stdin=yaml.safe_dump(document),
    )


def refused(kube: Kube, namespace: str, document: Body) -> str:
    with pytest.raises(KubectlFailed) as caught:
        tried(kube, namespace, document)
    return caught.value.output


def leaves(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every field that holds a value, by its path."""
    for name, found in schema.get("properties", {}).items():
        if found["type"] == "object":
            yield from leaves(found, f"{path}{name}.")
        else:
            yield f"{path}{name}", found


def every_field() -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path in sorted(CRDS.glob("*.yaml")):
        crd = yaml.safe_load(path.read_text("utf-8"))
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for field, found in leaves(schema["properties"]["spec"]):
            yield crd["spec"]["names"]["kind"], field, found


FIELDS = list(every_field())
