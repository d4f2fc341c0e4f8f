"""Data that `pulumi destroy` leaves where it is asked to, refuses to touch where it is protected, and finds again."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.kube import Kube
from cluster.operators import TAG
from cluster.pulumi_project import STACK, PulumiProject, PulumiRefused
from cluster.pulumi_stage import SMALL
from support import poll

pytestmark = pytest.mark.timeout(1800)
RUN = secrets.token_hex(3)
APP, DATA = f"infra-app-{RUN}", f"infra-data-{RUN}"
WRITTEN: dict[str, Any] = SMALL | {
    "namespaces": {"app": APP, "data": DATA},
    "rabbitmq": SMALL["rabbitmq"] | {"replicas": 1},
    "images": {"tag": TAG},
    "order": {"replicas": 1, "poolSize": 4},
    "waybill": {"minReplicas": 1, "maxReplicas": 1, "poolSize": 4},
    "keda": {"enabled": False},
    "chart": {"values": {"crds": {"install": False}}},
    "retainData": True,
    "waitSeconds": 600,
}


@pytest.fixture(scope="module")
def project(kube: Kube, crds: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PulumiProject]:
    """A stack that keeps its data, not yet up."""
    if shutil.which("pulumi") is None:
        pytest.skip("there is no pulumi on PATH, so `pulumi destroy` itself is not tried")
    made = PulumiProject(tmp_path_factory.mktemp("pulumi"))
    made.prepare(WRITTEN)
    yield made
    for name in (APP, DATA):
        kube.delete_soon("namespace", name)


def _psql(kube: Kube, statement: str) -> str:
    where = ("outhaul-postgres-0", "--namespace", DATA, "--container", "postgres")
    return kube.kubectl("exec", *where, "--", "psql", "--username=postgres", "--tuples-only", "--command", statement)


def test_protected_data_is_not_destroyed_and_retained_data_is_found_again(project: PulumiProject, kube: Kube) -> None:
    project.write(WRITTEN | {"protect": True})
    project.up()
    _psql(kube, "CREATE TABLE kept AS SELECT 7 AS a")
    with pytest.raises(PulumiRefused, match="protect"):
        project.pulumi("destroy", "--yes", "--skip-preview", "--stack", STACK)
    assert "7" in _psql(kube, "TABLE kept")

    project.write(WRITTEN)
    project.up()
    project.pulumi("destroy", "--yes", "--skip-preview", "--stack", STACK)
    assert kube.path(f"/api/v1/namespaces/{APP}") is None
    poll(lambda: kube.all("pods", DATA) == [], seconds=180, what="the end of the servers")
    claims = kube.path(f"/api/v1/namespaces/{DATA}/persistentvolumeclaims")
    assert claims is not None
    assert {each["metadata"]["name"] for each in claims["items"]} == {
        "data-outhaul-postgres-0",
        "data-outhaul-rabbitmq-0",
    }
    assert kube.all("secrets", DATA) == []

    project.up()
    assert "7" in _psql(kube, "TABLE kept")
