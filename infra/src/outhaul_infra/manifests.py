"""Manifests as plain mappings, as the API server takes them: what several parts have in common.

Components register them with Pulumi; tests look at them, and apply them, without it. A value may be a Pulumi output.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, Final

from outhaul_infra.names import ALLOW_LABEL, LABEL_NAME

Manifest = dict[str, Any]

# Uid and gid of the servers in the official images, Debian's variants.
SERVER_USER: Final = 999

CONTAINER_SECURITY: Final[Mapping[str, Any]] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
POD_SECURITY: Final[Mapping[str, Any]] = {
    "runAsNonRoot": True,
    "runAsUser": SERVER_USER,
    "runAsGroup": SERVER_USER,
    "fsGroup": SERVER_USER,
    # Or every start would walk the whole volume.
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}


def labels(part: str) -> dict[str, str]:
    """What selects the pods of a part, and tells whose they are."""
    return {LABEL_NAME: part, "app.kubernetes.io/part-of": "outhaul"}


def metadata(name: str, namespace: str, *, part: str | None = None, **more: Any) -> dict[str, Any]:
    """Name, namespace and labels; ``more`` goes in as it is (annotations)."""
    own = labels(part or name) | {"app.kubernetes.io/managed-by": "pulumi"}
    return {"name": name, "namespace": namespace, "labels": own} | more


def checksum(*texts: str) -> str:
    """Changes when a text does: as an annotation of a pod template it restarts the pods. Gives no text away."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


def secret(
    name: str,
    namespace: str,
    entries: Mapping[str, str],
    *,
    part: str | None = None,
    allow: bool = False,
    kind: str = "Opaque",
) -> Manifest:
    """A Secret; ``allow`` lets the operator use it. What leaves ``stringData`` would stay, so it is ``data``."""
    described = metadata(name, namespace, part=part)
    if allow:
        described["labels"][ALLOW_LABEL] = "true"
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": described,
        "type": kind,
        "data": {key: base64.b64encode(text.encode()).decode() for key, text in entries.items()},
    }


def config_map(name: str, namespace: str, entries: Mapping[str, str], *, part: str) -> Manifest:
    """A ConfigMap."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(name, namespace, part=part),
        "data": dict(entries),
    }


def service_account(name: str, namespace: str) -> Manifest:
    """An identity without rights, whose token no pod gets."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(name, namespace),
        "automountServiceAccountToken": False,
    }


def disruption_budget(part: str, namespace: str) -> Manifest:
    """At most one pod of a part is taken away by choice (a node drained, a cluster upgraded)."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(part, namespace),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels(part)}},
    }


def volume_claim(name: str, storage: str, storage_class: str | None) -> Manifest:
    """A StatefulSet's claim template."""
    spec: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": storage}}}
    if storage_class is not None:
        spec["storageClassName"] = storage_class
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def soft_spread(selector: Mapping[str, str]) -> list[Manifest]:
    """Over nodes and zones where there are several; one node takes all of them. ``selector``: the pods' labels."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": dict(selector)},
        }
        for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    ]


def resources(cpu: str, memory: str) -> dict[str, Any]:
    """Memory is bound, because a server sizes itself by it; processor time is not: a bound would only add latency."""
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}}
