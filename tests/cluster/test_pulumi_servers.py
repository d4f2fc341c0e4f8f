"""The servers that the Pulumi program registers, on a real cluster: who may do what on them, and who not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest
from pika.exceptions import ChannelClosedByBroker, ProbableAuthenticationError

from cluster.in_cluster import Servers
from cluster.kube import Kube
from cluster.pulumi_stage import SMALL, PulumiStage, connect, declare, running, ways_to
from infra_graph import graph_of, passwords, settings
from outhaul.settings import ManagementSettings
from outhaul_waybill.topology import TOPOLOGY

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def stage(kube: Kube) -> Iterator[PulumiStage]:
    """Three RabbitMQ nodes and PostgreSQL, ready."""
    with running(kube, SMALL) as made:
        yield made


@pytest.fixture(scope="module")
def ways(stage: PulumiStage) -> Iterator[Servers]:
    """From this machine to the Services."""
    with ways_to(stage) as made:
        yield made


@pytest.fixture(scope="module")
def declared(stage: PulumiStage, ways: Servers) -> None:
    """The topology, by the identity that may."""
    declare(stage, ways)


def test_three_nodes_form_one_cluster_that_knows_its_users_and_no_guest(stage: PulumiStage) -> None:
    status = json.loads(stage.rabbitmqctl("cluster_status", "--formatter", "json"))
    assert len(status["running_nodes"]) == 3
    users = {user["user"] for user in json.loads(stage.rabbitmqctl("list_users", "--formatter", "json"))}
    assert users == {f"outhaul-{who}" for who in ("order", "waybill", "operator", "topology", "keda", "admin")}


def test_every_queue_has_a_member_on_each_node(stage: PulumiStage, ways: Servers, declared: None) -> None:
    management = ManagementSettings.parse(stage.url("operator-broker", "management-url", ways))
    password = management.secret.read(setting="x") or ""
    queues = httpx.get(f"{management.base_url}/api/queues/%2F", auth=(management.user, password)).json()
    assert {queue["name"] for queue in queues} == {queue.name for queue in TOPOLOGY.queues}
    assert {len(queue["members"]) for queue in queues} == {3}


def _amqp_url(stage: PulumiStage, ways: Servers, secret: str) -> str:
    """By the identity of that Secret; KEDA's is made for the management API, and has the same password there."""
    if secret != "keda-broker":
        return stage.url(secret, "url", ways)
    host, port = ways.way("outhaul-rabbitmq", 5672)
    return f"amqp://outhaul-keda:{quote(passwords()['rabbitmqKedaPassword'], safe='')}@{host}:{port}/%2F"


@pytest.mark.parametrize(
    ("secret", "exchange", "allowed"),
    [
        ("order-broker", "outhaul.events", True),
        ("order-broker", "outhaul.dlx", False),
        ("order-broker", "", False),
        ("waybill-broker", "outhaul.retry", True),
        ("waybill-broker", "outhaul.dlx", True),
        ("waybill-broker", "outhaul.events", False),
        ("waybill-broker", "", False),
        ("operator-broker", "outhaul.events", True),
        ("operator-broker", "outhaul.retry", True),
        ("operator-broker", "outhaul.dlx", False),
        ("operator-broker", "", False),
        ("topology-broker", "", False),
        ("topology-broker", "amq.topic", False),
        ("keda-broker", "outhaul.events", False),
        ("keda-broker", "outhaul.dlx", False),
        ("keda-broker", "", False),
    ],
)
def test_an_identity_publishes_where_it_must_and_nowhere_else(
    stage: PulumiStage, ways: Servers, declared: None, secret: str, exchange: str, allowed: bool
) -> None:
    connection = connect(_amqp_url(stage, ways, secret))
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        # A key that no queue is bound by, so that nothing is left behind.
        if allowed:
            channel.basic_publish(exchange, "nobody.listens", b"")
        else:
            with pytest.raises(ChannelClosedByBroker, match="ACCESS_REFUSED"):
                channel.basic_publish(exchange, "nobody.listens", b"")
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("secret", "queue", "allowed"),
    [
        ("order-broker", "outhaul.waybill", False),
        ("order-broker", "outhaul.waybill.dlq", False),
        ("waybill-broker", "outhaul.waybill", True),
        ("waybill-broker", "outhaul.waybill.dlq", False),
        ("waybill-broker", "outhaul.waybill.retry.5s", False),
        ("operator-broker", "outhaul.waybill.dlq", True),
        ("operator-broker", "outhaul.waybill", False),
        ("keda-broker", "outhaul.waybill", False),
        ("keda-broker", "outhaul.waybill.dlq", False),
    ],
)
def test_an_identity_reads_what_it_must_and_nothing_else(
    stage: PulumiStage, ways: Servers, declared: None, secret: str, queue: str, allowed: bool
) -> None:
    connection = connect(_amqp_url(stage, ways, secret))
    try:
        channel = connection.channel()
        if allowed:
            channel.basic_get(queue)
        else:
            with pytest.raises(ChannelClosedByBroker, match="ACCESS_REFUSED"):
                channel.basic_get(queue)
    finally:
        connection.close()


CHANGES: tuple[Callable[[Any], Any], ...] = (
    lambda channel: channel.queue_declare("outhaul.more", durable=True),
    lambda channel: channel.queue_delete("outhaul.waybill"),
    lambda channel: channel.exchange_declare("outhaul.more"),
    lambda channel: channel.queue_purge("outhaul.waybill.retry.5s"),
    lambda channel: channel.queue_bind("outhaul.waybill", "outhaul.events", "more"),
)


@pytest.mark.parametrize("secret", ["order-broker", "waybill-broker", "operator-broker", "keda-broker"])
def test_nobody_but_the_topologys_identity_declares_or_deletes(
    stage: PulumiStage, ways: Servers, declared: None, secret: str
) -> None:
    connection = connect(_amqp_url(stage, ways, secret))
    try:
        for act in CHANGES:
            with pytest.raises(ChannelClosedByBroker, match="ACCESS_REFUSED"):
                act(connection.channel())
    finally:
        connection.close()


def test_the_topologys_identity_declares_its_own_names_and_no_others(
    stage: PulumiStage, ways: Servers, declared: None
) -> None:
    connection = connect(_amqp_url(stage, ways, "topology-broker"))
    others: tuple[Callable[[Any], Any], ...] = (
        lambda channel: channel.queue_declare("another", durable=True),
        lambda channel: channel.exchange_declare("another"),
        lambda channel: channel.queue_bind("outhaul.waybill", "amq.topic", "more"),
        lambda channel: channel.exchange_delete("amq.topic"),
    )
    try:
        for act in others:
            with pytest.raises(ChannelClosedByBroker, match="ACCESS_REFUSED"):
                act(connection.channel())
        connection.channel().queue_declare("outhaul.more", durable=True)
        connection.channel().queue_delete("outhaul.more")
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("identity", "path", "status"),
    [
        ("order", "/api/overview", 401),
        ("waybill", "/api/queues", 401),
        ("keda", "/api/queues/%2F/outhaul.waybill", 200),
        ("keda", "/api/nodes", 401),
        ("keda", "/api/definitions", 401),
        ("operator", "/api/nodes", 200),
        ("operator", "/api/users", 401),
        ("topology", "/api/policies/%2F", 200),
        ("topology", "/api/users", 401),
        ("guest", "/api/overview", 401),
    ],
)
def test_the_management_api_answers_each_identity_as_far_as_it_must(
    ways: Servers, declared: None, identity: str, path: str, status: int
) -> None:
    host, port = ways.way("outhaul-rabbitmq", 15672)
    name, password = (
        ("guest", "guest")
        if identity == "guest"
        else (
            f"outhaul-{identity}",
            passwords()[f"rabbitmq{identity.capitalize()}Password"],
        )
    )
    answer = httpx.get(f"http://{host}:{port}{path}", auth=(name, password), timeout=30)
    assert answer.status_code == status, answer.text


def test_a_wrong_password_is_refused(stage: PulumiStage, ways: Servers) -> None:
    url = stage.url("order-broker", "url", ways).replace("rabbitmqOrderPassword", "another")
    with pytest.raises(ProbableAuthenticationError):
        connect(url)


@pytest.mark.parametrize("function", ["order", "waybill"])
def test_an_owner_makes_tables_and_the_others_of_its_database_do_not(
    stage: PulumiStage, ways: Servers, function: str
) -> None:
    with psycopg.connect(stage.url(f"{function}-database-owner", "url", ways), autocommit=True) as owner:
        owner.execute("CREATE TABLE probe (a int)")
        for secret in (f"{function}-database", "outbox-database" if function == "order" else "inbox-database"):
            with psycopg.connect(stage.url(secret, "url", ways), autocommit=True) as other:
                for statement in ("CREATE TABLE more (a int)", "SELECT * FROM probe", "DROP TABLE probe"):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        other.execute(statement.encode())
        owner.execute("DROP TABLE probe")


@pytest.mark.parametrize(
    "secret",
    [
        "order-database",
        "order-database-owner",
        "outbox-database",
        "waybill-database",
        "waybill-database-owner",
        "inbox-database",
    ],
)
@pytest.mark.parametrize("database", ["own", "outhaul_order", "outhaul_waybill", "postgres", "template1"])
def test_a_role_comes_into_its_own_database_alone(
    stage: PulumiStage, ways: Servers, secret: str, database: str
) -> None:
    url = stage.url(secret, "url", ways)
    own = url.rpartition("/")[2]
    if database in {"own", own}:
        with psycopg.connect(url) as conn:
            assert conn.execute("SELECT current_database()").fetchone() == (own,)
        return
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
        psycopg.connect(url.removesuffix(own) + database)


def test_the_superuser_is_refused_from_the_network_and_has_no_password(stage: PulumiStage, ways: Servers) -> None:
    host, port = ways.way("outhaul-postgres", 5432)
    with pytest.raises(psycopg.OperationalError, match="rejects connection"):
        psycopg.connect(host=host, port=port, user="postgres", dbname="postgres", password="postgres")
    assert stage.psql("SELECT rolpassword IS NULL FROM pg_authid WHERE rolname = 'postgres'").strip() == "t"


def test_the_operators_role_sees_the_activity_of_others(stage: PulumiStage, ways: Servers) -> None:
    with (
        psycopg.connect(stage.url("order-database", "url", ways)) as function,
        psycopg.connect(stage.url("outbox-database", "url", ways)) as operator,
    ):
        function.execute("SELECT 1")
        row = operator.execute(
            "SELECT query FROM pg_stat_activity WHERE pid = %s", (function.info.backend_pid,)
        ).fetchone()
    assert row == ("SELECT 1",)


def test_a_dump_by_the_documented_command_comes_back(stage: PulumiStage, ways: Servers) -> None:
    with psycopg.connect(stage.url("order-database-owner", "url", ways), autocommit=True) as owner:
        owner.execute("CREATE TABLE dumped AS SELECT generate_series(1, 1000) AS a")
        stage.in_server(
            "pg_dump --username postgres --format custom outhaul_order > /tmp/outhaul_order.dump"
            " && createdb --username postgres restored"
            " && pg_restore --username postgres --dbname restored /tmp/outhaul_order.dump"
        )
        found = stage.in_server("psql --username postgres --dbname restored --tuples-only --command 'TABLE dumped'")
        assert len(found.split()) == 1000
        stage.in_server("dropdb --username postgres restored")
        owner.execute("DROP TABLE dumped")


@pytest.mark.parametrize(
    ("mode", "group", "kinds"),
    [
        ({"rabbitmq": {"mode": "cluster-operator"}}, "rabbitmq.com/v1beta1", {"RabbitmqCluster"}),
        (
            {"postgres": {"mode": "cloudnative-pg", "replicas": 3}},
            "postgresql.cnpg.io/v1",
            {"Cluster", "Database"},
        ),
    ],
    ids=["cluster-operator", "cloudnative-pg"],
)
@pytest.mark.parametrize("tls", [False, True])
def test_the_operators_definitions_take_our_resources(
    kube: Kube, namespace: str, mode: dict[str, object], group: str, kinds: set[str], tls: bool
) -> None:
    if kube.path(f"/apis/{group}") is None:
        pytest.skip(f"the cluster has no {group}; install the operator's definitions")
    given = {"tls": {"enabled": True, "issuer": "ca"}} if tls else {}
    graph = graph_of(settings(namespaces={"app": f"{namespace}-app", "data": namespace}, **mode, **given))
    found = [each for each in graph.objects() if each["kind"] in kinds]
    assert {each["kind"] for each in found} == kinds
    for manifest in found:
        text = json.dumps(manifest)
        kube.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)
