"""What servers are told of identities: definitions, roles, configuration files; pure functions of the settings."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import psycopg
import pytest
from psycopg import sql

from infra_graph import passwords, settings
from outhaul.errors import ConfigurationError
from outhaul.settings import BrokerSettings, DatabaseSettings, ManagementSettings
from outhaul_infra import external, names
from outhaul_infra.broker_config import broker_config
from outhaul_infra.broker_definitions import definitions, password_hash
from outhaul_infra.broker_users import NOTHING, USERS
from outhaul_infra.chart_values import merged
from outhaul_infra.endpoints import BrokerEndpoint, DatabaseEndpoint
from outhaul_infra.passwords import BROKER_IDENTITIES
from outhaul_infra.postgres_cloudnative_pg import postgres_cluster
from outhaul_infra.postgres_config import pg_hba_conf, postgresql_conf
from outhaul_infra.postgres_roles import roles_of, roles_sql, scram_verifier
from outhaul_infra.settings import Postgres
from outhaul_local.broker_setup import RIGHTS
from outhaul_waybill.topology import TOPOLOGY

AWKWARD = "p@ss/w:rd%'\"\\$é".encode("ascii", "ignore").decode()


def test_a_hash_is_the_brokers_salt_and_digest() -> None:
    raw = base64.b64decode(password_hash("outhaul-order", AWKWARD))
    assert raw[4:] == hashlib.sha256(raw[:4] + AWKWARD.encode()).digest()


def test_a_hash_is_the_same_every_time_and_another_for_everybody() -> None:
    hashes = [password_hash(user, "the same for both") for user in ("outhaul-order", "outhaul-waybill")]
    assert hashes[0] == password_hash("outhaul-order", "the same for both")
    assert hashes[0] != hashes[1]


def test_the_definitions_name_users_and_no_queue() -> None:
    made = json.loads(definitions({"order": AWKWARD, "keda": AWKWARD}))
    assert set(made) == {"vhosts", "users", "permissions"}
    assert [user["name"] for user in made["users"]] == ["outhaul-order", "outhaul-keda"]
    assert AWKWARD not in json.dumps(made)


def test_every_identity_of_the_broker_has_its_rights() -> None:
    assert {user.identity for user in USERS} == set(BROKER_IDENTITIES)


def test_functions_have_the_rights_they_have_in_local_mode() -> None:
    here = {user.identity: user for user in USERS}
    for function, rights in RIGHTS.items():
        assert {"configure": here[function].configure, "write": here[function].write, "read": here[function].read} == (
            rights
        )


def test_the_rights_reach_all_that_is_declared_and_nobody_but_topology_may_declare() -> None:
    declared = {*(each.name for each in TOPOLOGY.exchanges), *(each.name for each in TOPOLOGY.queues)}
    by_identity = {user.identity: user for user in USERS}
    assert all(re.search(by_identity["topology"].configure, name) for name in declared)
    for who in ("order", "waybill", "operator", "keda"):
        assert by_identity[who].configure == NOTHING
        assert not {"administrator", "policymaker"} & set(by_identity[who].tags)
    reached = {name for name in declared if re.search(by_identity["operator"].read, name)}
    assert reached == {"outhaul.waybill.dlq"}


def test_a_verifier_is_what_the_server_makes_of_the_same_password(postgres_url: str) -> None:
    role, password = "infra_verifier_test", passwords()["postgresOrderPassword"]
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), scram_verifier(role, password))
        )
        try:
            psycopg.connect(postgres_url, user=role, password=password).close()
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                psycopg.connect(postgres_url, user=role, password=password + "x")
        finally:
            conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def test_the_roles_script_gives_no_password_away_and_is_the_same_every_time() -> None:
    given = {role: f"{role} {AWKWARD}" for function in names.FUNCTIONS for role in roles_of(function)}
    text = roles_sql(given)
    assert text == roles_sql(given)
    assert AWKWARD not in text
    assert len(set(re.findall(r"SCRAM-SHA-256\$[^']+", text))) == 6


def test_each_role_comes_into_its_own_database_and_nobody_in_as_superuser() -> None:
    lines = pg_hba_conf(tls=True).splitlines()
    assert lines[0] == "local all postgres peer"
    assert lines[1] == "host all postgres all reject"
    assert {line.split()[1] for line in lines[2:]} == {"outhaul_order", "outhaul_waybill"}
    assert all(line.startswith("hostssl ") and line.endswith(" scram-sha-256") for line in lines[2:])


# What CloudNativePG writes before and after a Cluster's own lines (its documentation, "PostgreSQL Configuration").
_CLOUDNATIVE_PG = """local all all peer
hostssl postgres streaming_replica all cert map=cnpg_streaming_replica
hostssl replication streaming_replica all cert map=cnpg_streaming_replica
hostssl all cnpg_pooler_pgbouncer all cert map=cnpg_pooler_pgbouncer
{own}
host all all all scram-sha-256
"""


def _method(lines: str, database: str, role: str, *, encrypted: bool) -> str:
    """By the first line that matches, as the server goes by it."""
    for line in lines.splitlines():
        kind, databases, roles, _, method, *_ = [*line.split(), "", ""]
        by_network = kind == "host" or (kind == "hostssl" and encrypted)
        if by_network and databases in {"all", database} and {"all", role} & set(roles.split(",")):
            return method
    return "no line"


@pytest.mark.parametrize("tls", [False, True])
def test_what_cloudnative_pg_adds_opens_nothing_that_our_own_server_keeps_shut(tls: bool) -> None:
    own = postgres_cluster(Postgres(), "data", tls_secret="given" if tls else None)["spec"]["postgresql"]["pg_hba"]
    lines = _CLOUDNATIVE_PG.format(own="\n".join(own))
    assert _method(lines, "outhaul_order", "outhaul_order_owner", encrypted=True) == "scram-sha-256"
    assert _method(lines, "outhaul_order", "outhaul_order", encrypted=False) == ("reject" if tls else "scram-sha-256")
    assert _method(lines, "outhaul_waybill", "outhaul_order", encrypted=True) == "reject"
    assert _method(lines, "postgres", "outhaul_order", encrypted=True) == "reject"
    assert _method(lines, "outhaul_order", "postgres", encrypted=True) == "reject"
    assert _method(lines, "replication", "streaming_replica", encrypted=True) == "cert"


def test_a_server_sizes_itself_by_what_it_is_given() -> None:
    conf = dict(line.split(" = ") for line in postgresql_conf(Postgres(memory="4Gi"), tls=False).splitlines())
    assert (conf["shared_buffers"], conf["effective_cache_size"]) == ("1024MB", "3072MB")
    assert "ssl" not in conf


def test_a_broker_keeps_a_fifth_of_its_memory_and_some_disk_back() -> None:
    text = broker_config(replicas=3, memory="1Gi", storage="5Gi", tls=False, extra={"log.console.level": "debug"})
    conf = dict(line.split(" = ") for line in text.splitlines())
    assert int(conf["total_memory_available_override_value"]) == int(2**30 * 0.8)
    assert int(conf["disk_free_limit.absolute"]) == 2**30
    assert conf["cluster_formation.target_cluster_size_hint"] == "3"
    assert conf["log.console.level"] == "debug"


def test_with_tls_nothing_listens_in_plain() -> None:
    text = broker_config(replicas=3, memory="1Gi", storage="5Gi", tls=True, extra={})
    assert "listeners.tcp = none" in text
    assert "management.ssl.port = 15671" in text
    assert "management.tcp" not in text


@pytest.mark.parametrize("tls", [False, True])
def test_the_urls_are_what_our_programs_take_whatever_the_password_holds(tls: bool) -> None:
    scheme = "https" if tls else "http"
    broker = BrokerEndpoint(
        host="mq.data.svc", port=5671, management_url=f"{scheme}://mq.data.svc:15671", virtual_host="/", tls=tls
    )
    taken = BrokerSettings.parse(broker.amqp_url("order", AWKWARD))
    assert (taken.user, taken.virtual_host, taken.port) == ("outhaul-order", "/", 5671)
    assert taken.secret.read(setting="x") == AWKWARD
    assert (taken.tls is not None) == tls
    managed = ManagementSettings.parse(broker.management_url_of("topology", AWKWARD))
    assert (managed.base_url, managed.user) == (f"{scheme}://mq.data.svc:15671", "outhaul-topology")
    database = DatabaseEndpoint(host="pg.data.svc", port=5432, tls=tls)
    url = database.url("outhaul_order", AWKWARD, "outhaul_order")
    assert DatabaseSettings.parse(url).address == "pg.data.svc:5432/outhaul_order"
    assert psycopg.conninfo.conninfo_to_dict(url)["password"] == AWKWARD
    assert ("sslmode=verify-full" in url) == tls


def test_an_existing_server_is_given_the_same_identities() -> None:
    given: dict[str, str | None] = {**passwords()}
    assert external.postgres(given).count("CREATE DATABASE") == 2
    made = json.loads(external.rabbitmq(given, virtual_host="shop"))
    assert {user["name"] for user in made["users"]} == {names.broker_user(who) for who in BROKER_IDENTITIES} - {
        "outhaul-admin"
    }
    assert {each["vhost"] for each in made["permissions"]} == {"shop"}
    given["postgresWaybillOperatorPassword"] = None
    with pytest.raises(ConfigurationError, match="postgresWaybillOperatorPassword"):
        external.postgres(given)


def test_values_merge_as_helm_merges_them() -> None:
    assert merged({"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"c": [2]}, "d": {"e": 1}}) == {
        "a": {"b": 1, "c": [2]},
        "d": {"e": 1},
    }
    assert settings(chart={"values": {"operator": {"enabled": False}}}).chart.values == {"operator": {"enabled": False}}
