"""From a manifest to a Pulumi resource."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pulumi
from pulumi_kubernetes.apiextensions import CustomResource
from pulumi_kubernetes.apps.v1 import StatefulSet
from pulumi_kubernetes.core.v1 import ConfigMap, Namespace, Secret, Service, ServiceAccount
from pulumi_kubernetes.networking.v1 import NetworkPolicy
from pulumi_kubernetes.policy.v1 import PodDisruptionBudget

from outhaul_infra.manifests import Manifest

# By their own classes, because the provider knows for these when they are ready and what an update would replace.
_CLASSES: Final[Mapping[str, Any]] = {
    "ConfigMap": ConfigMap,
    "Namespace": Namespace,
    "NetworkPolicy": NetworkPolicy,
    "PodDisruptionBudget": PodDisruptionBudget,
    "Secret": Secret,
    "Service": Service,
    "ServiceAccount": ServiceAccount,
    "StatefulSet": StatefulSet,
}


def register(manifest: Manifest, opts: pulumi.ResourceOptions, *, name: str | None = None) -> pulumi.CustomResource:
    """The resource, under the manifest's kind and name; ``name`` where that is not stable or not unique."""
    kind = manifest["kind"]
    called = name or f"{kind.lower()}-{manifest['metadata']['name']}"
    if kind not in _CLASSES:
        resource: pulumi.CustomResource = CustomResource(
            called,
            api_version=manifest["apiVersion"],
            kind=kind,
            metadata=manifest["metadata"],
            spec=manifest.get("spec"),
            opts=opts,
        )
        return resource
    arguments = {_snake(key): value for key, value in manifest.items() if key not in {"apiVersion", "kind"}}
    if kind == "Secret":
        arguments["data"] = pulumi.Output.secret(arguments["data"])
    made: pulumi.CustomResource = _CLASSES[kind](called, opts=opts, **arguments)
    return made


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
