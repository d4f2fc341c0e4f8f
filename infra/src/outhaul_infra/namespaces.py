"""The two namespaces: one for what can be made again, one for the data, which `retainData` keeps."""

from __future__ import annotations

from typing import Final

import pulumi

from outhaul_infra.manifests import Manifest
from outhaul_infra.registering import register
from outhaul_infra.stack import Stack

# https://kubernetes.io/docs/concepts/security/pod-security-standards/
_RESTRICTED: Final = {f"pod-security.kubernetes.io/{what}": "restricted" for what in ("enforce", "audit", "warn")}


class Namespaces(pulumi.ComponentResource):
    """Both hold pods to the Pod Security level `restricted`."""

    def __init__(self, name: str, stack: Stack, *, opts: pulumi.ResourceOptions) -> None:
        super().__init__("outhaul:infra:Namespaces", name, None, opts)
        # First: where it exists another stack lives in both, and whose data that is must not be taken up here.
        app = register(namespace(stack.app), stack.options(self), name="namespace-app")
        register(namespace(stack.data), stack.kept_options(self, app), name="namespace-data")
        self.register_outputs({"app": stack.app, "data": stack.data})


def namespace(name: str) -> Manifest:
    """A namespace of ours."""
    labels = {"app.kubernetes.io/part-of": "outhaul", "app.kubernetes.io/managed-by": "pulumi"} | _RESTRICTED
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
