"""The stack on servers that are there already: they are given our identities by the documented commands."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from cluster.in_cluster import Servers
from cluster.kube import Kube
from cluster.operators import TAG
from cluster.pulumi_stage import PulumiStage
from cluster.pulumi_system import all_is_well, install, uninstall
from infra_graph import passwords
from outhaul_infra import external
from support import poll

pytestmark = pytest.mark.timeout(900)
VIRTUAL_HOST = "outhaul-external"


@pytest.fixture(scope="module")
def stage(kube: Kube, crds: None, servers: Servers) -> Iterator[PulumiStage]:
    """Identities on the session's servers, Secrets, chart, Outbox and Inbox."""
    given: dict[str, str | None] = {**passwords()}
    where = ("--namespace", servers.namespace, "--")
    psql = ("psql", "--username=postgres", "--dbname=postgres", "--quiet")
    for _ in range(2):  # it may be run again
        kube.kubectl("exec", "--stdin", "postgres-0", *where, *psql, stdin=external.postgres(given))
    definitions = external.rabbitmq(given, virtual_host=VIRTUAL_HOST)
    kube.kubectl(
        "exec", "--stdin", "rabbitmq-0", *where, "sh", "-c",
        "cat > /tmp/d.json && rabbitmqctl import_definitions /tmp/d.json", stdin=definitions,
    )  # fmt: skip
    made = PulumiStage(
        kube,
        {
            "rabbitmq": {
                "mode": "external",
                "host": f"rabbitmq.{servers.namespace}.svc",
                "managementUrl": f"http://rabbitmq.{servers.namespace}.svc:15672",
                "virtualHost": VIRTUAL_HOST,
            },
            "postgres": {"mode": "external", "host": f"postgres.{servers.namespace}.svc"},
            "images": {"tag": TAG},
            "order": {"replicas": 1},
            "waybill": {"maxReplicas": 1},
            "keda": {"enabled": False},
        },
    )
    try:
        made.up()
        install(made)
        yield made
        uninstall(made)
    finally:
        made.down()
        poll(lambda: kube.path(f"/api/v1/namespaces/{made.app}") is None, seconds=180, what="the end of the functions")
        statements = [f"DROP DATABASE IF EXISTS outhaul_{name} WITH (FORCE)" for name in ("order", "waybill")]
        statements += [
            f"DROP ROLE IF EXISTS outhaul_{name}{kind}"
            for name in ("order", "waybill")
            for kind in ("_owner", "", "_operator")
        ]
        script = ";\n".join([*statements, ""])
        kube.kubectl("exec", "--stdin", "postgres-0", *where, *psql, stdin=script)
        kube.kubectl("exec", "rabbitmq-0", *where, "rabbitmqctl", "delete_vhost", VIRTUAL_HOST)


def test_the_system_comes_up_on_them(stage: PulumiStage) -> None:
    poll(lambda: all_is_well(stage), seconds=300, what="Outbox and Inbox to be Ready")


def test_nothing_is_made_in_the_datas_namespace(kube: Kube, stage: PulumiStage) -> None:
    for plural in ("pods", "statefulsets", "services", "secrets"):
        assert kube.all(plural, stage.data) == []


def test_a_function_cannot_look_into_the_others_database(stage: PulumiStage, servers: Servers) -> None:
    host, port = servers.way("postgres", 5432)
    password = passwords()["postgresOrderPassword"]
    psycopg.connect(host=host, port=port, user="outhaul_order", password=password, dbname="outhaul_order").close()
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(host=host, port=port, user="outhaul_order", password=password, dbname="outhaul_waybill")
