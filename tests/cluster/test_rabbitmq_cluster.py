"""The servers that the Pulumi program registers, while they are changed, restarted and killed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from cluster.in_cluster import Servers
from cluster.kube import Kube
from cluster.publishing import PublishLoad, drained
from cluster.pulumi_stage import SMALL, PulumiStage, connect, declare, running, ways_to
from outhaul.settings import ManagementSettings
from support import poll

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def stage(kube: Kube) -> Iterator[PulumiStage]:
    """Three RabbitMQ nodes and PostgreSQL, ready; at first it was one node, and each of its queues had one member."""
    with running(kube, SMALL | {"rabbitmq": SMALL["rabbitmq"] | {"replicas": 1}}) as made:
        with ways_to(made) as there:
            declare(made, there)
            poll(lambda: set(_members(made, there).values()) == {1}, seconds=60, what="one member each")
        made.written = SMALL
        made.up()
        made.ready()
        yield made


@pytest.fixture(scope="module")
def ways(stage: PulumiStage) -> Iterator[Servers]:
    """From this machine to the Services."""
    with ways_to(stage) as made:
        yield made


def _members(stage: PulumiStage, ways: Servers) -> dict[str, int]:
    management = ManagementSettings.parse(stage.url("operator-broker", "management-url", ways))
    password = management.secret.read(setting="x") or ""
    queues = httpx.get(f"{management.base_url}/api/queues/%2F", auth=(management.user, password), timeout=60).json()
    return {queue["name"]: len(queue.get("members", ())) for queue in queues}


def test_one_node_becomes_three_with_its_queues(stage: PulumiStage, ways: Servers) -> None:
    poll(lambda: set(_members(stage, ways).values()) == {3}, seconds=240, what="three members everywhere")


def test_a_queue_with_too_few_members_gets_the_missing_ones(stage: PulumiStage, ways: Servers) -> None:
    connection = connect(stage.url("topology-broker", "url", ways))
    connection.channel().queue_declare(
        "outhaul.lonely", durable=True, arguments={"x-queue-type": "quorum", "x-quorum-initial-group-size": 1}
    )
    for count in (1, 3):
        poll(lambda n=count: _members(stage, ways).get("outhaul.lonely") == n, seconds=240, what=f"{count} members")  # type: ignore[misc]
    connection.channel().queue_delete("outhaul.lonely")
    connection.close()


def test_applying_the_same_again_changes_nothing(stage: PulumiStage, kube: Kube) -> None:
    before = {name: kube.read("statefulsets", stage.data, name) for name in ("outhaul-rabbitmq", "outhaul-postgres")}
    stage.up()
    for name, was in before.items():
        now = kube.read("statefulsets", stage.data, name)
        assert was is not None
        assert now is not None
        assert now["metadata"]["generation"] == was["metadata"]["generation"]


def test_an_edited_line_of_broker_configuration_rolls_one_node_at_a_time_and_loses_nothing(
    stage: PulumiStage, ways: Servers, kube: Kube, capsys: pytest.CaptureFixture[str]
) -> None:
    declare(stage, ways)
    before = kube.read("statefulsets", stage.data, "outhaul-rabbitmq")
    assert before is not None
    fewest = 3

    def rolled() -> bool:
        nonlocal fewest
        found = kube.read("statefulsets", stage.data, "outhaul-rabbitmq")
        assert found is not None
        fewest = min(fewest, found["status"].get("readyReplicas", 0))
        return stage.rolled_out("outhaul-rabbitmq")

    url, began = stage.url("order-broker", "url", ways), time.monotonic()
    with PublishLoad(url) as load:
        stage.up(rabbitmq={"extraConfig": {"consumer_timeout": 1900000}})
        poll(rolled, seconds=600, what="the roll of RabbitMQ")
        sent = len(load.acked)
        poll(lambda: len(load.acked) > sent + 20, seconds=30, what="more confirms")
    took = time.monotonic() - began
    after = kube.read("statefulsets", stage.data, "outhaul-rabbitmq")
    assert after is not None
    assert after["metadata"]["uid"] == before["metadata"]["uid"], "the StatefulSet was replaced"
    assert fewest == 2
    assert "1900000" in stage.rabbitmqctl("eval", "application:get_env(rabbit, consumer_timeout).")
    missing = set(load.acked) - drained(stage.url("waybill-broker", "url", ways), "outhaul.waybill")
    assert missing == set()
    with capsys.disabled():
        print(f"\nrolled in {took:.0f} s, {len(load.acked)} acked, longest gap {load.longest_gap_seconds:.2f} s")  # noqa: T201 - a figure to report


def test_a_rotated_password_works_once_the_server_has_restarted_and_the_old_one_no_longer(
    stage: PulumiStage, ways: Servers
) -> None:
    old = stage.url("order-database", "url", ways)
    data_before = stage.psql("SELECT system_identifier FROM pg_control_system()")
    stage.up(postgresOrderPassword="quite-another-password")
    stage.ready()
    with psycopg.connect(stage.url("order-database", "url", ways)) as conn:
        assert conn.execute("SELECT current_user").fetchone() == ("outhaul_order",)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(old)
    assert stage.psql("SELECT system_identifier FROM pg_control_system()") == data_before


def test_a_killed_server_recovers_with_its_data_and_its_roles(stage: PulumiStage, ways: Servers, kube: Kube) -> None:
    with psycopg.connect(stage.url("waybill-database-owner", "url", ways)) as conn:
        conn.execute("CREATE TABLE kept AS SELECT 7 AS a")
    stage.psql("ALTER ROLE outhaul_waybill SUPERUSER")
    was = kube.read("pods", stage.data, "outhaul-postgres-0")
    assert was is not None
    kube.kubectl("delete", "pod", "outhaul-postgres-0", "--namespace", stage.data, "--grace-period=0", "--force")

    def is_another() -> bool:
        now = kube.read("pods", stage.data, "outhaul-postgres-0")
        return now is not None and now["metadata"]["uid"] != was["metadata"]["uid"]

    poll(is_another, seconds=120, what="another pod")
    stage.ready()
    with psycopg.connect(stage.url("waybill-database-owner", "url", ways)) as conn:
        assert conn.execute("SELECT a FROM kept").fetchone() == (7,)
        conn.execute("DROP TABLE kept")
    assert stage.psql("SELECT rolsuper FROM pg_roles WHERE rolname = 'outhaul_waybill'").strip() == "f"


def test_another_cookie_is_taken_by_a_full_stop_and_nothing_is_lost(
    stage: PulumiStage, ways: Servers, kube: Kube
) -> None:
    """As docs/deployment.md tells it: a rolling restart would leave its first node alone."""
    declare(stage, ways)
    with PublishLoad(stage.url("order-broker", "url", ways)) as load:
        poll(lambda: len(load.acked) > 20, seconds=60, what="messages in the queue")
    old = stage.in_broker("cat", "/var/lib/rabbitmq/.erlang.cookie")
    kube.kubectl("scale", "statefulset/outhaul-rabbitmq", "--replicas=0", "--namespace", stage.data)
    chosen = ("--selector", "app.kubernetes.io/name=outhaul-rabbitmq", "--namespace", stage.data)
    kube.kubectl("wait", "--for=delete", "pod", *chosen, "--timeout=180s", seconds=200)
    stage.up(rabbitmqErlangCookie="quite-another-cookie")
    stage.ready()
    assert stage.in_broker("cat", "/var/lib/rabbitmq/.erlang.cookie") == "quite-another-cookie" != old
    assert set(load.acked) - drained(stage.url("waybill-broker", "url", ways), "outhaul.waybill") == set()
    poll(lambda: set(_members(stage, ways).values()) == {3}, seconds=60, what="three members everywhere")
