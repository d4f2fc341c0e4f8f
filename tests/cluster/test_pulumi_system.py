"""The whole stack as the Pulumi program plans it: its servers and Secrets, the chart with its values, its resources."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from cluster.in_cluster import Servers
from cluster.kube import Kube, KubectlFailed
from cluster.operators import TAG
from cluster.pulumi_stage import SMALL, PulumiStage, running, ways_to
from cluster.pulumi_system import all_is_well, install, place, uninstall, waybills
from infra_graph import ROOT
from support import poll

pytestmark = pytest.mark.timeout(900)
ORDERS = 200
WRITTEN = SMALL | {
    "images": {"tag": TAG},
    "waybill": {"minReplicas": 0, "maxReplicas": 2, "poolSize": 4},
    "order": {"replicas": 1},
    "keda": {"enabled": False},
}
AMQP, MANAGEMENT, SQL = ("outhaul-rabbitmq", 5672), ("outhaul-rabbitmq", 15672), ("outhaul-postgres", 5432)
_CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5).close()"


@pytest.fixture(scope="module")
def stage(kube: Kube, crds: None) -> Iterator[PulumiStage]:
    """Servers, chart, Outbox and Inbox."""
    with running(kube, WRITTEN) as made:
        install(made)
        yield made
        uninstall(made)


@pytest.fixture(scope="module")
def ways(stage: PulumiStage) -> Iterator[Servers]:
    """From this machine to the Services of the servers."""
    with ways_to(stage) as made:
        yield made


def test_both_resources_come_to_say_that_all_is_well(stage: PulumiStage) -> None:
    poll(lambda: all_is_well(stage), seconds=420, what="Outbox and Inbox to be Ready")


def test_every_order_becomes_one_waybill(stage: PulumiStage, ways: Servers) -> None:
    placed = place(stage, ways, ORDERS)
    poll(lambda: waybills(stage) == placed, seconds=300, what=f"{ORDERS} waybills")


# As the schema Jobs left it: what an owner does, and what is the other's of those who share the database.
_REFUSED = {
    "order-database": ("SELECT FROM runs", "DELETE FROM orders", "DELETE FROM outbox_sent"),
    "outbox-database": ("SELECT FROM orders", "INSERT INTO outbox DEFAULT VALUES", "DELETE FROM outbox_sent"),
    "waybill-database": ("SELECT FROM runs", "DELETE FROM waybills", "UPDATE waybills SET customer = ''"),
    "inbox-database": ("SELECT FROM waybills", "SELECT FROM inbox", "DELETE FROM inbox"),
}
_AN_OWNERS = ("DROP TABLE runs", "CREATE TABLE more (a int)", "TRUNCATE runs", "ALTER TABLE runs ADD a int")


@pytest.mark.parametrize("secret", _REFUSED)
def test_a_role_is_refused_what_is_an_owners_or_anothers(stage: PulumiStage, ways: Servers, secret: str) -> None:
    with psycopg.connect(stage.url(secret, "url", ways), autocommit=True) as conn:
        for statement in (*_AN_OWNERS, *_REFUSED[secret]):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement.encode())


def _reaches(stage: PulumiStage, pod: str, server: tuple[str, int]) -> bool:
    host, port = server
    try:
        where = ("--namespace", stage.app, pod, "--")
        stage.kube.kubectl("exec", *where, "python", "-c", _CONNECT, f"{host}.{stage.data}.svc", str(port))
    except KubectlFailed as error:
        if "timed out" in error.output or "refused" in error.output:
            return False
        raise
    return True


@pytest.fixture(scope="module")
def stranger(stage: PulumiStage) -> str:
    """A pod of nobody's, beside the functions."""
    container = {
        "name": "stranger",
        "image": f"outhaul/order:{TAG}",
        "command": ["python", "-c", "import signal; signal.pause()"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    stage.kube.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "stranger", "namespace": stage.app, "labels": {"app.kubernetes.io/name": "another"}},
            "spec": {"securityContext": security, "terminationGracePeriodSeconds": 0, "containers": [container]},
        }
    )
    where = ("--namespace", stage.app, "--timeout=90s")
    stage.kube.kubectl("wait", "--for=condition=Ready", "pod/stranger", *where)
    return "stranger"


def test_a_pod_beside_the_functions_reaches_neither_server(stage: PulumiStage, stranger: str) -> None:
    assert not [server for server in (AMQP, MANAGEMENT, SQL) if _reaches(stage, stranger, server)]


@pytest.mark.parametrize(
    ("part", "reached"),
    [("order", {AMQP, SQL}), ("waybill", {AMQP, SQL}), ("operator", {AMQP, MANAGEMENT, SQL})],
)
def test_each_part_reaches_what_it_uses_and_no_other_port(
    stage: PulumiStage, part: str, reached: set[tuple[str, int]]
) -> None:
    pods = stage.kube.all("pods", stage.app, labels=f"app.kubernetes.io/component={part}")
    name = pods[0]["metadata"]["name"]
    assert {server for server in (AMQP, MANAGEMENT, SQL) if _reaches(stage, name, server)} == reached


def _run(script: str, stage: PulumiStage, folder: Path) -> None:
    """A block of the page, in this stage's namespaces."""
    here = re.sub(r"--namespace outhaul\b(?!-)", f"--namespace {stage.app}", script)
    here = here.replace("--namespace outhaul-data", f"--namespace {stage.data}")
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", here], cwd=folder, capture_output=True, text=True, check=False, timeout=420
    )
    assert ended.returncode == 0, f"{here}\n{ended.stdout}{ended.stderr}"


def test_both_databases_come_back_by_the_documented_commands(stage: PulumiStage, ways: Servers, tmp_path: Path) -> None:
    page = (ROOT / "docs/deployment.md").read_text().partition("## Backups and restoring")[2].partition("\n## ")[0]
    dump, restore = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    there = place(stage, ways, 20, prefix="before")
    poll(lambda: there <= waybills(stage), seconds=120, what="their waybills")
    there = waybills(stage)
    _run(dump, stage, tmp_path)
    psql = "psql --username=postgres --dbname"
    stage.in_server(f"{psql}=outhaul_waybill --command 'DROP TABLE waybills CASCADE'")
    stage.in_server(f"{psql}=outhaul_order --command 'TRUNCATE orders CASCADE'")
    _run(restore, stage, tmp_path)
    assert waybills(stage) == there
    for function, replicas in (("order", 1), ("waybill", 2), ("operator", 1)):
        stage.kube.kubectl(
            "scale", f"deployment/outhaul-{function}", f"--replicas={replicas}", "--namespace", stage.app
        )
    more = place(stage, ways, 20, prefix="after")
    poll(lambda: waybills(stage) == there | more, seconds=300, what="waybills of new orders too")
    poll(lambda: all_is_well(stage), seconds=300, what="Outbox and Inbox to be Ready again")
