"""The servers with TLS and given certificates: nothing is served in plain, and clients verify whom they speak to."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pika
import psycopg
import pytest
import trustme

from cluster.in_cluster import Servers
from cluster.kube import Kube
from cluster.operators import TAG
from cluster.pulumi_stage import SMALL, PulumiStage, ways_to
from cluster.pulumi_system import all_is_well, install, place, uninstall, waybills
from conftest import missing
from infra_graph import passwords
from outhaul.settings import BrokerSettings
from outhaul_infra.manifests import secret
from support import poll

pytestmark = pytest.mark.timeout(900)
HOSTS = ("outhaul-rabbitmq", "outhaul-postgres")
WRITTEN = SMALL | {
    "rabbitmq": SMALL["rabbitmq"] | {"replicas": 1},
    "images": {"tag": TAG},
    "order": {"replicas": 1, "poolSize": 4},
    "waybill": {"minReplicas": 0, "maxReplicas": 2, "poolSize": 4},
    "chart": {"values": {"keda": {"pollingInterval": 2, "cooldownPeriod": 30, "scaleDownStabilizationSeconds": 0}}},
    "tls": {
        "enabled": True,
        "certificates": "secrets",
        "authoritySecret": "authority",
        "rabbitmqSecret": "outhaul-rabbitmq-tls",
        "postgresSecret": "outhaul-postgres-tls",
    },
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority's certificate, as a file; its key stays with `stage`."""
    return tmp_path_factory.mktemp("tls") / "ca.crt"


@pytest.fixture(scope="module")
def stage(kube: Kube, crds: None, authority: Path) -> Iterator[PulumiStage]:
    """One RabbitMQ node and PostgreSQL, both with certificates from Secrets, and all that calls them."""
    if kube.path("/apis/keda.sh/v1alpha1") is None:
        missing("KEDA")
    made = PulumiStage(kube, WRITTEN)
    try:
        made.graph = made.plan()
        kube.apply(*(each for each in made.graph.objects() if each["kind"] == "Namespace"))
        issue(kube, made.data, authority)
        kube.apply(secret("authority", made.app, {"ca.crt": authority.read_text()}))
        made.up()
        made.ready()
        install(made)
        yield made
        uninstall(made)
    finally:
        made.down()


def issue(kube: Kube, namespace: str, authority: Path) -> None:
    """Certificates by a new authority, whose own goes into that file."""
    signer = trustme.CA()
    signer.cert_pem.write_to_path(str(authority))
    for host in HOSTS:
        issued = signer.issue_cert(host, f"{host}.{namespace}.svc")
        entries = {
            "tls.crt": b"".join(blob.bytes() for blob in issued.cert_chain_pems),
            "tls.key": issued.private_key_pem.bytes(),
            "ca.crt": signer.cert_pem.bytes(),
        }
        kube.apply(secret(f"{host}-tls", namespace, {key: value.decode() for key, value in entries.items()}))


@pytest.fixture(scope="module")
def ways(stage: PulumiStage) -> Iterator[Servers]:
    """From this machine to the Services."""
    with ways_to(stage) as made:
        yield made


def test_amqp_is_served_by_tls_to_whom_verifies_the_services_name(
    stage: PulumiStage, ways: Servers, authority: Path
) -> None:
    url = stage.url("order-broker", "url", ways)
    assert url.startswith("amqps://")
    named = f"{url}?server_name=outhaul-rabbitmq.{stage.data}.svc&ca_file={authority}"
    pika.BlockingConnection(BrokerSettings.parse(named).parameters(connection_name="test")).close()
    wrong = f"{url}?server_name=another.{stage.data}.svc&ca_file={authority}"
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
        pika.BlockingConnection(BrokerSettings.parse(wrong).parameters(connection_name="test"))


def test_the_management_api_is_served_by_tls_alone(stage: PulumiStage, ways: Servers, authority: Path) -> None:
    host, port = ways.way("outhaul-rabbitmq", 15671)
    with httpx.Client(verify=ssl.create_default_context(cafile=str(authority)), timeout=30) as client:
        answer = client.get(
            f"https://{host}:{port}/api/queues/%2F/none",
            auth=("outhaul-keda", passwords()["rabbitmqKedaPassword"]),
            extensions={"sni_hostname": f"outhaul-rabbitmq.{stage.data}.svc"},
        )
    assert answer.status_code == 404
    told = json.loads(stage.in_broker("rabbitmq-diagnostics", "listeners", "--formatter", "json"))
    listeners = {each["port"] for each in told["listeners"]}
    assert not {5672, 15672} & listeners


def test_sql_is_served_by_tls_alone(stage: PulumiStage, ways: Servers, authority: Path) -> None:
    url = stage.url("order-database", "url", ways).partition("?")[0]
    host = f"outhaul-postgres.{stage.data}.svc"
    address, port = ways.way("outhaul-postgres", 5432)
    verified = psycopg.conninfo.make_conninfo(
        url, host=host, hostaddr=address, port=port, sslmode="verify-full", sslrootcert=str(authority)
    )
    with psycopg.connect(verified) as conn:
        assert conn.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (True,)
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
        psycopg.connect(url, sslmode="disable")
    with pytest.raises(psycopg.OperationalError, match="does not match host name"):
        psycopg.connect(verified.replace(host, "another.svc"))


def _without_consumer(stage: PulumiStage) -> bool:
    found = stage.kube.read("deployments", stage.app, "outhaul-waybill")
    assert found is not None
    return bool(found["spec"]["replicas"] == 0)


def test_orders_become_waybills_by_tls_alone_with_consumers_that_keda_brings(stage: PulumiStage, ways: Servers) -> None:
    """KEDA learns of them by the management API, whose certificate it verifies by the authority it is given."""
    poll(lambda: _without_consumer(stage), seconds=420, what="no consumer")
    placed = place(stage, ways, 50)
    poll(lambda: waybills(stage) == placed, seconds=300, what="50 waybills")
    clients = json.loads(stage.rabbitmqctl("--quiet", "list_connections", "user", "ssl", "--formatter", "json"))
    assert {"outhaul-order", "outhaul-waybill"} <= {each["user"] for each in clients if each["ssl"]}
    assert [each for each in clients if not each["ssl"]] == []
    seen = stage.psql(
        "SELECT DISTINCT usename, ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE client_addr IS NOT NULL"
    )
    assert {"outhaul_order|t", "outhaul_waybill|t"} <= set(seen.split())
    assert "|f" not in seen


def test_the_operator_finds_all_well_by_tls(stage: PulumiStage) -> None:
    """It asks both databases, AMQP and the management API, and compares the topology that the Job declared."""
    poll(lambda: all_is_well(stage), seconds=300, what="Outbox and Inbox to be Ready")


def test_a_renewed_certificate_is_used_without_a_restart(
    kube: Kube, stage: PulumiStage, ways: Servers, authority: Path
) -> None:
    before = [kube.read("pods", stage.data, f"{host}-0") for host in HOSTS]
    issue(kube, stage.data, authority)
    url, (address, port) = stage.url("order-broker", "url", ways), ways.way("outhaul-postgres", 5432)
    named = f"{url}?server_name=outhaul-rabbitmq.{stage.data}.svc&ca_file={authority}"
    verified = psycopg.conninfo.make_conninfo(
        stage.url("order-database", "url", ways).partition("?")[0],
        host=f"outhaul-postgres.{stage.data}.svc",
        hostaddr=address,
        port=port,
        sslmode="verify-full",
        sslrootcert=str(authority),
    )

    def broker_shows_it() -> bool:
        try:
            pika.BlockingConnection(BrokerSettings.parse(named).parameters(connection_name="test")).close()
        except ssl.SSLCertVerificationError:
            return False
        return True

    def server_shows_it() -> bool:
        try:
            psycopg.connect(verified).close()
        except psycopg.OperationalError as error:
            if "certificate verify failed" not in str(error):
                raise
            return False
        return True

    poll(server_shows_it, seconds=240, what="PostgreSQL to show the new certificate")
    poll(broker_shows_it, seconds=240, what="RabbitMQ to show the new certificate")
    after = [kube.read("pods", stage.data, f"{host}-0") for host in HOSTS]
    for was, now in zip(before, after, strict=True):
        assert was is not None
        assert now is not None
        assert now["metadata"]["uid"] == was["metadata"]["uid"]
