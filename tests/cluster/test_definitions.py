"""The definitions of the custom resources as the chart brings them: upgraded in place, kept, found again, gone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.deployed import definitions, free_of_definitions
from cluster.in_cluster import namespace_manifest
from cluster.kube import Kube
from cluster.operators import CHART, TAG, helm
from support import poll

pytestmark = [pytest.mark.timeout(600), pytest.mark.alone]
NAMESPACE = "harness-definitions"
OUTBOX = {
    "apiVersion": "outhaul.dev/v1alpha1",
    "kind": "Outbox",
    "metadata": {"name": "mine"},
    "spec": {"databaseSecretRef": {"name": "database"}, "brokerSecretRef": {"name": "broker"}},
}
ALL = sorted(
    f"customresourcedefinition.apiextensions.k8s.io/{each}.outhaul.dev"
    for each in ("outboxes", "inboxes", "resends", "redrives")
)


@pytest.fixture
def namespace(kube: Kube) -> Iterator[str]:
    """A namespace in a cluster that knows nothing of ours."""
    free_of_definitions(kube)
    kube.apply(namespace_manifest(NAMESPACE))
    yield NAMESPACE
    helm("uninstall", "outhaul", "--namespace", NAMESPACE, "--ignore-not-found")
    if definitions(kube):
        kube.kubectl("delete", "outboxes", "--all", "--namespace", NAMESPACE)
    free_of_definitions(kube)
    kube.kubectl("delete", "namespace", NAMESPACE)


def _install(chart: Path, *, keep: bool) -> None:
    """Definitions and operator alone."""
    values = {
        "crds": {"keep": keep},
        "functions": {"enabled": False},
        "schema": {"enabled": False},
        "topology": {"enabled": False},
        "keda": {"enabled": False},
        "images": {name: {"tag": TAG} for name in ("order", "waybill", "operator")},
    }
    where = ("--namespace", NAMESPACE, "--wait", "--timeout=90s", "--values=-")
    helm("upgrade", "--install", "outhaul", str(chart), *where, stdin=yaml.safe_dump(values))


def _older(folder: Path) -> Path:
    """The chart as it might have been before: its Outbox had no ``interval`` and no columns."""
    chart = Path(shutil.copytree(CHART, folder / "outhaul"))
    path = next(each for each in (chart / "files" / "crds").iterdir() if "outbox" in each.name)
    definition = yaml.safe_load(path.read_text())
    [version] = definition["spec"]["versions"]
    del version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["interval"]
    del version["additionalPrinterColumns"]
    path.write_text(yaml.safe_dump(definition))
    return chart


def _knows_interval(kube: Kube) -> bool:
    definition = kube.path("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/outboxes.outhaul.dev")
    assert definition is not None
    properties: dict[str, Any] = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return "interval" in properties["spec"]["properties"]


def test_they_are_upgraded_kept_found_again_and_taken_away(kube: Kube, namespace: str, tmp_path: Path) -> None:
    _install(_older(tmp_path), keep=True)
    assert not _knows_interval(kube)
    kube.apply(OUTBOX, namespace=namespace)

    _install(CHART, keep=True)
    assert _knows_interval(kube)
    shown = kube.table("outboxes", namespace)
    assert {"NAME", "READY", "PENDING"} <= set(shown[0])

    helm("uninstall", "outhaul", "--namespace", namespace, "--wait")
    assert definitions(kube) == ALL
    assert kube.read("outboxes", namespace, "mine") is not None, "the user's resource went with the chart"

    _install(CHART, keep=False)
    assert kube.read("outboxes", namespace, "mine") is not None

    helm("uninstall", "outhaul", "--namespace", namespace, "--wait")
    poll(lambda: definitions(kube) == [], seconds=60, what="the end of the definitions")
