"""The custom resources' definitions through `pulumi destroy`: kept, found again, or taken away, as the setting says.

Under an API group of the test's own, since the definitions of ours are the whole cluster's.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from cluster.kube import Kube
from cluster.pulumi_project import STACK, PulumiProject
from support import poll

pytestmark = pytest.mark.timeout(900)
GROUP = f"t{secrets.token_hex(3)}.outhaul-tests.dev"
PROGRAM = """
from pathlib import Path

import pulumi
from pulumi.runtime.config import CONFIG, is_config_secret

from outhaul_infra.application import outhaul_chart
from outhaul_infra.program import kubernetes
from outhaul_infra.settings import read_settings
from outhaul_infra.stack import Stack

config = CONFIG.get()
settings = read_settings(config, secret_keys=frozenset(filter(is_config_secret, config)))
stack = Stack(settings, finding=kubernetes("kubernetes-finding", settings, finds=True))
root = Path(__file__).parent.parent
outhaul_chart(stack, root=root, authority_secret=None, credentials="", opts=pulumi.ResourceOptions())
"""
_OFF = {"enabled": False}
_DEFINITIONS_ALONE = {
    "operator": _OFF, "functions": _OFF, "schema": _OFF, "topology": _OFF, "keda": _OFF, "networkPolicies": _OFF,
    "monitoring": {"dashboard": _OFF},
}  # fmt: skip


def written(namespace: str, *, keep: bool) -> dict[str, Any]:
    """The stack's settings."""
    return {"namespaces": {"app": namespace}, "chart": {"keepCrds": keep, "values": _DEFINITIONS_ALONE}}


@pytest.fixture
def project(kube: Kube, namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PulumiProject]:
    """The chart alone, its definitions under the other group."""
    if shutil.which("pulumi") is None:
        pytest.skip("there is no pulumi on PATH, so `pulumi destroy` itself is not tried")
    made = PulumiProject(tmp_path_factory.mktemp("pulumi"))
    made.prepare(written(namespace, keep=True))
    made.replace_program(PROGRAM)
    for path in (made.folder / "helm/outhaul/files/crds").iterdir():
        definition = yaml.safe_load(path.read_text())
        definition["metadata"]["name"] = definition["metadata"]["name"].replace("outhaul.dev", GROUP)
        definition["spec"]["group"] = GROUP
        path.write_text(yaml.safe_dump(definition, sort_keys=False))
    yield made
    for name in definitions(kube):
        kube.delete_soon("customresourcedefinition", name)


def definitions(kube: Kube) -> list[str]:
    """Those of the group, by name."""
    found = kube.path("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
    assert found is not None
    return [each["metadata"]["name"] for each in found["items"] if each["spec"]["group"] == GROUP]


def test_they_stay_with_the_users_resources_and_go_exactly_when_asked_to(
    project: PulumiProject, kube: Kube, namespace: str
) -> None:
    def destroy() -> None:
        project.pulumi("destroy", "--yes", "--skip-preview", "--stack", STACK)

    def mine() -> dict[str, Any] | None:
        return kube.path(f"/apis/{GROUP}/v1alpha1/namespaces/{namespace}/outboxes/mine")

    project.up()
    assert len(definitions(kube)) == 4
    spec = {"databaseSecretRef": {"name": "database"}, "brokerSecretRef": {"name": "broker"}}
    outbox = {"apiVersion": f"{GROUP}/v1alpha1", "kind": "Outbox", "metadata": {"name": "mine"}, "spec": spec}
    kube.apply(outbox, namespace=namespace)
    destroy()
    assert len(definitions(kube)) == 4
    before = mine()
    assert before is not None, "the user's resource went with the stack"

    project.up()
    project.write(written(namespace, keep=False))
    project.up()
    assert (mine() or {})["metadata"]["uid"] == before["metadata"]["uid"]
    destroy()
    poll(lambda: definitions(kube) == [], seconds=60, what="the end of the definitions")
