"""Roles with exactly the declared grants: the real functions run under them, and whatever else is tried is refused."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from cli_support import outhaul
from conftest import MakeDatabase
from function_process import running
from outhaul.broker_admin.topology_apply import apply
from outhaul.database import schema_grant
from outhaul.errors import ConfigurationError, SchemaError
from outhaul_waybill.topology import TOPOLOGY
from support import BrokerUnderTest, poll

ORDER = {"customer": "Ada", "lines": [{"sku": "kettle", "quantity": 2, "unit_price_cents": 1999}]}
MakeRole = Callable[..., str]


@pytest.fixture
def make_role(postgres_url: str) -> Iterator[MakeRole]:
    """Makes a role, grants it what a component declares, and returns the database's DSN for it."""
    made: list[tuple[str, str]] = []

    def make(owner: str, component: str = "", purpose: str = "function") -> str:
        name, password = f"test_{secrets.token_hex(6)}", secrets.token_hex(8)
        with psycopg.connect(owner, autocommit=True) as conn:
            conn.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(password))
            )
            made.append((name, owner))
            if component:
                schema_grant.grant(conn, component, role=name, purpose=purpose)
        parts = urlsplit(owner)
        return urlunsplit(parts._replace(netloc=f"{name}:{password}@{parts.hostname}:{parts.port}"))

    yield make
    for name, owner in made:
        with psycopg.connect(owner, autocommit=True) as conn:
            conn.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(name)))
            conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def role_of(dsn: str) -> str:
    return urlsplit(dsn).username or ""


def held(owner: str, dsn: str) -> dict[str, set[str]]:
    """What the role of ``dsn`` was given, as the server tells it."""
    found: dict[str, set[str]] = {}
    with psycopg.connect(owner) as conn:
        for table, privilege in conn.execute(
            "SELECT table_name, privilege_type FROM information_schema.role_table_grants WHERE grantee = %s",
            (role_of(dsn),),
        ):
            found.setdefault(table, set()).add(privilege)
        for routine, privilege in conn.execute(
            "SELECT routine_name, privilege_type FROM information_schema.role_routine_grants WHERE grantee = %s",
            (role_of(dsn),),
        ):
            found.setdefault(routine, set()).add(privilege)
    return found


def declared(component: str, purpose: str) -> dict[str, set[str]]:
    return {
        each.on.removeprefix("FUNCTION ").partition("(")[0]: set(each.privileges.split(", "))
        for each in schema_grant.grants(component, purpose)
    }


def test_the_functions_do_their_work_with_what_a_function_is_granted(
    make_database: MakeDatabase, make_role: MakeRole, broker: BrokerUnderTest, tmp_path: Path
) -> None:
    apply(TOPOLOGY, broker.amqp_url, broker.management_url)
    order_dsn = make_role(make_database(("order",)), "order")
    waybill_dsn = make_role(make_database(("waybill",)), "waybill")
    order = running(
        "outhaul_order", tmp_path, {"OUTHAUL_ORDER_DATABASE_URL": order_dsn, "OUTHAUL_AMQP_URL": broker.amqp_url}
    )
    waybill = running(
        "outhaul_waybill", tmp_path, {"OUTHAUL_WAYBILL_DATABASE_URL": waybill_dsn, "OUTHAUL_AMQP_URL": broker.amqp_url}
    )
    with order as orders, waybill as waybills:
        orders.wait_ready()
        waybills.wait_ready()
        answers = [orders.http.post("/orders", json=ORDER, headers={"Idempotency-Key": "one"}) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [201, 201]
        ids = {answer.json()["order_id"] for answer in answers}
        [order_id] = ids
        poll(lambda: waybills.http.get(f"/waybills/{order_id}").status_code == 200, seconds=20, what="its waybill")
        poll(lambda: orders.http.get(f"/orders/{order_id}").json()["status"] == "sent", what="its message marked")
        assert (orders.stop(), waybills.stop()) == (0, 0)
        for log in (orders.log, waybills.log):
            assert "permission denied" not in log.read_text()


@pytest.mark.parametrize(
    ("component", "purpose"),
    [
        (component, purpose)
        for component in ("outbox", "order", "inbox", "waybill")
        for purpose in schema_grant.PURPOSES
    ],
)
def test_a_role_holds_what_is_declared_and_nothing_else(
    make_database: MakeDatabase, make_role: MakeRole, component: str, purpose: str
) -> None:
    owner = make_database((component,))
    dsn = make_role(owner, component, purpose)
    assert held(owner, dsn) == declared(component, purpose)


@pytest.mark.parametrize(
    ("component", "purpose", "statement"),
    [
        ("order", "function", "DELETE FROM orders"),
        ("order", "function", "UPDATE orders SET customer = ''"),
        ("order", "function", "DELETE FROM outbox_sent"),
        ("order", "function", "SELECT FROM runs"),
        ("order", "function", "TRUNCATE outbox"),
        ("order", "function", "CREATE TABLE mine (a int)"),
        ("order", "function", "UPDATE outhaul_schema SET checksum = ''"),
        ("order", "operator", "SELECT FROM orders"),
        ("order", "operator", "SELECT FROM idempotency_keys"),
        ("order", "operator", "INSERT INTO outbox DEFAULT VALUES"),
        ("order", "operator", "DELETE FROM runs"),
        ("order", "operator", "SELECT FROM outbox_sent"),
        ("order", "operator", "DELETE FROM outbox_sent"),
        ("order", "operator", "DELETE FROM senders"),
        ("order", "operator", "CREATE TABLE mine (a int)"),
        ("waybill", "function", "DELETE FROM waybills"),
        ("waybill", "function", "UPDATE waybills SET customer = ''"),
        ("waybill", "function", "SELECT FROM runs"),
        ("waybill", "operator", "SELECT FROM waybills"),
        ("waybill", "operator", "SELECT FROM inbox"),
        ("waybill", "operator", "DELETE FROM inbox"),
        ("waybill", "operator", "INSERT INTO inbox DEFAULT VALUES"),
        ("waybill", "operator", "UPDATE deliveries SET started = 0"),
        ("waybill", "operator", "SELECT outhaul_drop_partitions('inbox', 1)"),
    ],
)
def test_whatever_else_is_tried_is_refused(
    make_database: MakeDatabase, make_role: MakeRole, component: str, purpose: str, statement: str
) -> None:
    dsn = make_role(make_database((component,)), component, purpose)
    with psycopg.connect(dsn, autocommit=True) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute(statement.encode())


def test_granting_again_takes_away_what_was_granted_besides(make_database: MakeDatabase, make_role: MakeRole) -> None:
    owner = make_database(("order",))
    dsn = make_role(owner, "order")
    with psycopg.connect(owner, autocommit=True) as conn:
        conn.execute(f"GRANT ALL ON orders, outbox, runs TO {role_of(dsn)}".encode())
        schema_grant.grant(conn, "order", role=role_of(dsn), purpose="function")
    assert held(owner, dsn) == declared("order", "function")


def test_a_role_may_reach_a_schema_that_is_not_open_to_all(make_database: MakeDatabase, make_role: MakeRole) -> None:
    owner = make_database(("order",))
    with psycopg.connect(owner, autocommit=True) as conn:
        conn.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    dsn = make_role(owner, "order")
    with psycopg.connect(dsn) as conn:
        conn.execute("SELECT FROM orders")


def test_what_cannot_be_granted_is_refused_with_the_way_out(make_database: MakeDatabase, make_role: MakeRole) -> None:
    owner, empty = make_database(("order",)), make_database(())
    dsn = make_role(owner, "order")
    with psycopg.connect(owner, autocommit=True) as conn:
        with pytest.raises(ConfigurationError, match=r"nobody.*CREATE ROLE"):
            schema_grant.grant(conn, "order", role="nobody", purpose="function")
        with pytest.raises(ConfigurationError, match="function, operator"):
            schema_grant.grant(conn, "order", role=role_of(dsn), purpose="everything")
        with pytest.raises(ConfigurationError, match="owns the tables"):
            schema_grant.grant(conn, "order", role=role_of(owner), purpose="function")
    with psycopg.connect(owner) as conn:
        conn.execute("SELECT 1")
        with pytest.raises(SchemaError, match="not inside a transaction"):
            schema_grant.grant(conn, "order", role=role_of(dsn), purpose="function")
    with psycopg.connect(dsn, autocommit=True) as conn, pytest.raises(SchemaError, match="applied the schema"):
        schema_grant.grant(conn, "order", role=role_of(dsn), purpose="function")
    with psycopg.connect(empty, autocommit=True) as conn, pytest.raises(SchemaError, match="outhaul schema apply"):
        schema_grant.grant(conn, "order", role=role_of(dsn), purpose="function")


def test_the_command_grants_and_tells_what_it_would(make_database: MakeDatabase, make_role: MakeRole) -> None:
    owner = make_database(("waybill",))
    dsn = make_role(owner)
    asked = ("schema", "grant", "--component", "waybill", "--role", role_of(dsn), "--as", "operator", "--dsn", owner)
    shown = outhaul(*asked, "--dry-run")
    assert f'GRANT SELECT, DELETE ON deliveries TO "{role_of(dsn)}";' in shown.stdout
    assert held(owner, dsn) == {}
    done: dict[str, Any] = json.loads(outhaul(*asked, "--output", "json").stdout)
    assert done["role"] == role_of(dsn)
    assert {"component": "inbox", "privileges": "SELECT", "on": "inbox_consumers"} in done["components"][0]["grants"]
    assert held(owner, dsn) == declared("waybill", "operator")
    assert "may do what an operator does" in outhaul(*asked).stdout
    wrong = outhaul("schema", "grant", "--component", "waybill", "--role", "x", "--as", "king", "--dsn", owner)
    assert wrong.exit_code == 2
