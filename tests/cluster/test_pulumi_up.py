"""`pulumi up` itself, with the real command and provider: up, no-op, a changed setting, drift, destroy.

Skipped where there is no pulumi command; what it would apply is tried without it by the other modules.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Iterator

import psycopg
import pytest

from cluster import diagnostics
from cluster.in_cluster import Servers
from cluster.kube import Kube
from cluster.operators import TAG
from cluster.publishing import PublishLoad, drained
from cluster.pulumi_project import PulumiProject, PulumiRefused
from cluster.pulumi_stage import SMALL
from support import poll

pytestmark = pytest.mark.timeout(1800)
RUN = secrets.token_hex(3)
APP, DATA = f"infra-app-{RUN}", f"infra-data-{RUN}"
WRITTEN = SMALL | {
    "namespaces": {"app": APP, "data": DATA},
    "images": {"tag": TAG},
    "order": {"replicas": 1, "poolSize": 4},
    "waybill": {"minReplicas": 1, "maxReplicas": 1, "poolSize": 4},
    "keda": {"enabled": False},
    # The definitions are the cluster's, for all tests: destroying them would take everybody's resources along.
    "chart": {"values": {"crds": {"install": False}}},
    "waitSeconds": 600,
}
EDITED = WRITTEN | {"rabbitmq": SMALL["rabbitmq"] | {"extraConfig": {"consumer_timeout": 1900000}}}


@pytest.fixture(scope="module")
def project(kube: Kube, crds: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PulumiProject]:
    """Up, and taken away again if no test did."""
    if shutil.which("pulumi") is None:
        pytest.skip("there is no pulumi on PATH, so `pulumi up` itself is not tried")
    made = PulumiProject(tmp_path_factory.mktemp("pulumi"))
    made.prepare(WRITTEN)
    try:
        try:
            made.up()
        except PulumiRefused as error:
            told = "\n".join(diagnostics.of(kube, name) for name in (APP, DATA))
            pytest.fail(f"{error}\n{told}")
        yield made
    finally:
        for name in (APP, DATA):
            kube.delete_soon("namespace", name)


def _stateful_sets(kube: Kube) -> dict[str, tuple[str, int]]:
    return {
        each["metadata"]["name"]: (each["metadata"]["uid"], each["metadata"]["generation"])
        for each in kube.all("statefulsets", DATA)
    }


def _all_is_well(project: PulumiProject) -> bool:
    told = subprocess.run(project.outputs()["isAllWell"].split(), capture_output=True, text=True, check=True).stdout
    return [line.split()[1] for line in told.splitlines() if "outhaul.dev/" in line] == ["True", "True"]


def test_up_leaves_a_system_that_says_that_all_is_well(project: PulumiProject, kube: Kube) -> None:
    assert _all_is_well(project)
    assert (
        len([each for each in kube.all("pods", DATA) if each["metadata"]["name"].startswith("outhaul-rabbitmq")]) == 3
    )


def test_a_second_up_changes_nothing(project: PulumiProject, kube: Kube) -> None:
    before = _stateful_sets(kube)
    project.up("--expect-no-changes")
    assert _stateful_sets(kube) == before


def test_no_password_stands_in_the_state_or_in_the_settings(project: PulumiProject) -> None:
    shown = project.command("outhaul_infra.external", "rabbitmq")
    assert "outhaul-waybill" in shown
    password = project.pulumi("config", "get", "outhaul:rabbitmqWaybillPassword", "--stack", "test").strip()
    texts = [path.read_bytes() for path in (project.folder / "state").rglob("*") if path.is_file()]
    texts.append((project.folder / "Pulumi.test.yaml").read_bytes())
    assert len(password) == 32
    assert not any(password.encode() in text for text in texts)


def test_an_edited_line_of_broker_configuration_updates_and_never_replaces(
    project: PulumiProject, kube: Kube, capsys: pytest.CaptureFixture[str]
) -> None:
    before, ways = _stateful_sets(kube), Servers(kube, DATA)
    password = project.pulumi("config", "get", "outhaul:rabbitmqOrderPassword", "--stack", "test").strip()
    host, port = ways.way("outhaul-rabbitmq", 5672)
    project.write(EDITED)
    planned = project.plan()
    assert planned == {"configmap-outhaul-rabbitmq-config": "update", "statefulset-outhaul-rabbitmq": "update"}
    # Stopped, so that what was confirmed can be counted in the queue.
    kube.kubectl("scale", "deployment/outhaul-waybill", "--replicas=0", "--namespace", APP)
    poll(
        lambda: not kube.all("pods", APP, labels="app.kubernetes.io/component=waybill"),
        seconds=90,
        what="the end of the consumer",
    )
    with PublishLoad(f"amqp://outhaul-order:{password}@{host}:{port}/%2F") as load:
        project.up()
    after = _stateful_sets(kube)
    assert after["outhaul-rabbitmq"][0] == before["outhaul-rabbitmq"][0], "the StatefulSet was replaced"
    assert after["outhaul-rabbitmq"][1] > before["outhaul-rabbitmq"][1]
    assert after["outhaul-postgres"] == before["outhaul-postgres"]
    reader = project.pulumi("config", "get", "outhaul:rabbitmqWaybillPassword", "--stack", "test").strip()
    found = drained(f"amqp://outhaul-waybill:{reader}@{host}:{port}/%2F", "outhaul.waybill")
    assert set(load.acked) - found == set()
    with capsys.disabled():
        print(f"\n{len(load.acked)} acked, longest gap {load.longest_gap_seconds:.2f} s")  # noqa: T201 - a figure to report


def test_a_rotated_password_leaves_a_system_that_works(project: PulumiProject, kube: Kube) -> None:
    old = project.pulumi("config", "get", "outhaul:postgresWaybillPassword", "--stack", "test").strip()
    project.command("outhaul_infra.secrets", "--stack", "test", "--renew", "postgresWaybillPassword")
    project.up()
    poll(lambda: _all_is_well(project), seconds=180, what="Outbox and Inbox to be Ready")
    host, port = Servers(kube, DATA).way("outhaul-postgres", 5432)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(host=host, port=port, user="outhaul_waybill", dbname="outhaul_waybill", password=old)


def test_what_somebody_changed_by_hand_shows_and_is_put_back(project: PulumiProject, kube: Kube) -> None:
    kube.kubectl("delete", "poddisruptionbudget", "outhaul-rabbitmq", "--namespace", DATA)
    kube.kubectl("scale", "deployment/outhaul-order", "--replicas=0", "--namespace", APP)
    planned = project.plan("--refresh")
    assert planned["poddisruptionbudget-outhaul-rabbitmq"] == "create"
    project.up("--refresh")
    assert kube.path(f"/apis/policy/v1/namespaces/{DATA}/poddisruptionbudgets/outhaul-rabbitmq") is not None
    order = kube.read("deployments", APP, "outhaul-order")
    assert order is not None
    assert order["spec"]["replicas"] == 1


def test_a_setting_that_cannot_be_used_is_refused_without_a_traceback(project: PulumiProject) -> None:
    project.write(WRITTEN | {"rabbitmq": {"replicas": 2}})
    with pytest.raises(PulumiRefused) as refused:
        project.plan()
    project.write(EDITED)
    assert "outhaul:rabbitmq.replicas=2: must be odd" in str(refused.value)
    assert "Traceback" not in str(refused.value)


def test_destroy_leaves_nothing(project: PulumiProject, kube: Kube) -> None:
    ways = Servers(kube, DATA)
    host, port = ways.way("outhaul-postgres", 5432)
    with pytest.raises(psycopg.OperationalError, match="rejects connection"):
        psycopg.connect(host=host, port=port, user="postgres", dbname="postgres")
    project.pulumi("destroy", "--yes", "--skip-preview", "--stack", "test")
    for name in (APP, DATA):
        assert kube.path(f"/api/v1/namespaces/{name}") is None

    def volumes() -> list[str]:
        found = kube.path("/api/v1/persistentvolumes")
        assert found is not None
        return [each["metadata"]["name"] for each in found["items"] if each["spec"]["claimRef"]["namespace"] == DATA]

    # A volume goes after its claim, in the cluster's own time.
    poll(lambda: volumes() == [], seconds=90, what="the end of the volumes")
    assert project.outputs() == {}
